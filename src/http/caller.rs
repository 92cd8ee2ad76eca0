//! Who asks, for handlers. The guard of the routes (`super::auth`) puts a [`Caller`] into the request; where it did not,
//! nobody gets in.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::{ApiError, Code};
use crate::auth::Denied;
use crate::gateway::{Caller, Scope};

/// The caller of a request.
pub(crate) struct Who(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Self).ok_or_else(|| Denied::Missing.into())
    }
}

impl Who {
    /// The caller, if they have one of these scopes.
    pub(crate) fn with(self, any_of: &[Scope]) -> Result<Caller, ApiError> {
        if any_of.iter().any(|scope| self.0.scopes.has(*scope)) {
            return Ok(self.0);
        }
        let names: Vec<_> = any_of.iter().map(|scope| scope.as_str()).collect();
        Err(ApiError::new(
            Code::Forbidden,
            format!(
                "this needs the scope {}, which these credentials do not have",
                names.join(" or ")
            ),
        ))
    }

    /// The caller, if they have one of these scopes and are bound to no tenant.
    pub(crate) fn of_all_tenants(self, any_of: &[Scope]) -> Result<Caller, ApiError> {
        let caller = self.with(any_of)?;
        match caller.tenant {
            None => Ok(caller),
            Some(_) => Err(ApiError::new(
                Code::Forbidden,
                "this concerns all tenants, and these credentials belong to one; use a key that was made without --tenant",
            )),
        }
    }
}
