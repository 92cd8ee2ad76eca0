//! A layer for those requests only that need it; the others pass it by, and pay nothing.

use std::sync::Arc;
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

impl<S, L: Clone> Layer<S> for Only<L> {
    type Service = Switch<S, L>;

    fn layer(&self, inner: S) -> Self::Service {
        Switch {
            when: self.when,
            layer: Arc::new(self.layer.clone()),
            inner,
        }
    }
}

/// The two ways for a request. A service is copied for every request, so the way with the layer is made when it is taken.
pub(super) struct Switch<S, L> {
    when: fn(&Request) -> bool,
    layer: Arc<L>,
    inner: S,
}

impl<S: Clone, L> Clone for Switch<S, L> {
    fn clone(&self) -> Self {
        Self {
            when: self.when,
            layer: self.layer.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl<S, L, B> Service<Request> for Switch<S, L>
where
    S: Service<Request, Response = Response> + Clone,
    S::Error: 'static,
    L: Layer<S>,
    L::Service: Service<Request, Response = axum::http::Response<B>, Error = S::Error>,
    <L::Service as Service<Request>>::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if !(self.when)(&request) {
            return Either::Left(self.inner.call(request));
        }
        // The one that said it was ready is the one that is called.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        let answer = self.layer.layer(ready).call(request);
        Either::Right(answer.map(|answer| Ok(answer?.map(Body::new))).boxed())
    }
}
