//! What a request is about, told by the template of its route: one set of handlers serves every resource.

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams};
use axum::http::request::Parts;

use super::description::BASE;
use crate::api::error::{ApiError, Code};

/// Segment before the tables of the generic API.
const TABLES: &str = "ovn/tables";

/// A kind of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A typed resource, by the segment of its path.
    Typed(String),
    /// A table of the schema.
    Table(String),
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Kind of the rows in the first segment.
    pub(super) kind: Kind,
    /// The row that the path names.
    pub(super) id: Option<String>,
    /// The segment under that row.
    pub(super) under: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Route {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let template = MatchedPath::from_request_parts(parts, state).await;
        let template = template.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|error| ApiError::new(Code::MalformedRequest, error.to_string()))?;
        let param =
            |name: &str| params.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_owned());
        let rest = template.as_str().strip_prefix(BASE).unwrap_or_default().trim_start_matches('/');
        let (kind, rest) = match rest.strip_prefix(TABLES) {
            Some(rest) => {
                (Kind::Table(param("table").unwrap_or_default()), rest.trim_start_matches("/{table}"))
            }
            None => {
                let (first, rest) = rest.split_once('/').unwrap_or((rest, ""));
                (Kind::Typed(first.to_owned()), rest)
            }
        };
        let under = rest.trim_start_matches('/').strip_prefix("{id}/").map(str::to_owned);
        Ok(Self { kind, id: param("id"), under })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn route(template: &str, path: &str) -> Route {
        let (send, receive) = tokio::sync::oneshot::channel();
        let send = std::sync::Arc::new(std::sync::Mutex::new(Some(send)));
        let handler = move |route: Route| {
            send.lock().unwrap().take().unwrap().send(route).unwrap();
            std::future::ready(())
        };
        let router = Router::new().route(template, get(handler));
        let request = Request::get(path).body(Body::empty()).unwrap();
        assert!(router.oneshot(request).await.unwrap().status().is_success(), "{path}");
        receive.await.unwrap()
    }

    fn found(kind: Kind, id: Option<&str>, under: Option<&str>) -> Route {
        Route { kind, id: id.map(str::to_owned), under: under.map(str::to_owned) }
    }

    #[tokio::test]
    async fn the_template_says_what_a_request_is_about() {
        let typed = |name: &str| Kind::Typed(name.to_owned());
        assert_eq!(route("/api/v1/switches", "/api/v1/switches").await, found(typed("switches"), None, None));
        assert_eq!(
            route("/api/v1/switches/{id}", "/api/v1/switches/a%2Fb").await,
            found(typed("switches"), Some("a/b"), None)
        );
        assert_eq!(
            route("/api/v1/switches/{id}/ports", "/api/v1/switches/s/ports").await,
            found(typed("switches"), Some("s"), Some("ports"))
        );
        let table = || Kind::Table("Meter".to_owned());
        assert_eq!(
            route("/api/v1/ovn/tables/{table}", "/api/v1/ovn/tables/Meter").await,
            found(table(), None, None)
        );
        assert_eq!(
            route("/api/v1/ovn/tables/{table}/{id}", "/api/v1/ovn/tables/Meter/m").await,
            found(table(), Some("m"), None)
        );
    }
}
