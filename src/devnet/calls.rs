//! What every call goes through before and after it is executed: the limit on calls at once, and the faults on demand.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::faults::{Action, Faults, Method};
use super::line::Knife;
use crate::fabric::proto::gateway::ErrorDetail;
use crate::fabric::status::with_details;

/// How many calls of a service may run at once.
pub(super) struct Limit {
    service: &'static str,
    most: usize,
    free: Arc<Semaphore>,
}

impl Limit {
    /// At most `most` calls of `service`.
    pub(super) fn new(service: &'static str, most: usize) -> Self {
        Self {
            service,
            most,
            free: Arc::new(Semaphore::new(most)),
        }
    }

    /// A place, for as long as it is held.
    ///
    /// # Errors
    /// A real peer's refusal, which has no code of its own.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.free).try_acquire_owned().map_err(|_| {
            Status::unknown(format!(
                "too many requests for /{}, exceeding concurrency limit ({})",
                self.service, self.most
            ))
        })
    }

    /// How many calls run now.
    pub(super) fn busy(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }
}

/// Executes a call, with the fault that is due for it.
pub(super) async fn guarded<T>(
    faults: &Faults,
    method: Method,
    knife: Option<Knife>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let cut = async || {
        if let Some(knife) = &knife {
            knife.cut();
        }
        // The end of the connection is the end of this call.
        pending().await
    };
    match faults.take(method) {
        None => call.await,
        Some(Action::Refuse {
            code,
            message,
            details,
        }) => {
            let details: Vec<ErrorDetail> = details
                .into_iter()
                .map(|detail| ErrorDetail {
                    address: detail.address,
                    msp_id: detail.msp_id,
                    message: detail.message,
                })
                .collect();
            let code = Code::from(code);
            Err(if details.is_empty() {
                Status::new(code, message)
            } else {
                with_details(code, &message, &details)
            })
        }
        Some(Action::CloseBefore) => cut().await,
        Some(Action::Delay { ms }) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            call.await
        }
        Some(Action::DropReply) => {
            let _unsent = call.await;
            pending().await
        }
        Some(Action::CloseAfter) => {
            let _unsent = call.await;
            cut().await
        }
    }
}
