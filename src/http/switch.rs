//! A layer for those requests only that need it; the others pass it by, and pay nothing.

use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::{BoxFuture, Either, FutureExt};
use tower::{Layer, Service};

/// Applies `layer` to requests of which `when` holds.
#[derive(Clone)]
pub(super) struct Only<L> {
    pub(super) when: fn(&Request) -> bool,
    pub(super) layer: L,
}

impl<S: Clone, L: Layer<S>> Layer<S> for Only<L> {
    type Service = Switch<S, L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        Switch {
            when: self.when,
            layered: self.layer.layer(inner.clone()),
            inner,
        }
    }
}

/// The two ways for a request.
#[derive(Clone)]
pub(super) struct Switch<S, T> {
    when: fn(&Request) -> bool,
    layered: T,
    inner: S,
}

impl<S, T, B> Service<Request> for Switch<S, T>
where
    S: Service<Request, Response = Response>,
    T: Service<Request, Response = axum::http::Response<B>, Error = S::Error>,
    T::Future: Send + 'static,
    S::Error: 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        match self.inner.poll_ready(context) {
            Poll::Ready(Ok(())) => self.layered.poll_ready(context),
            not_yet => not_yet,
        }
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if (self.when)(&request) {
            let answer = self.layered.call(request);
            Either::Right(answer.map(|answer| Ok(answer?.map(Body::new))).boxed())
        } else {
            Either::Left(self.inner.call(request))
        }
    }
}
