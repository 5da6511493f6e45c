//! OVN over HTTP: typed resources, every table of the schema, transactions, and how OVN is doing.
//!
//! Routes and their published description both come from the catalogue of resources (`description.rs`); one set of handlers
//! serves them all (`resources.rs`, `lists.rs`, `members.rs`), told by the template of the route what it is about.

pub mod backup;
mod description;
pub mod events;
pub mod fences;
pub mod headers;
pub mod lists;
mod members;
mod problem;
mod resources;
mod route;
pub mod southbound;
pub mod status;
pub mod topology;
pub mod trace;
pub mod transactions;

use axum::Router;
use axum::routing::{MethodRouter, get};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;

pub(super) use description::describe;
pub(super) use headers::Wait;

/// Routes that are described where their handlers are.
pub(super) fn described() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(fences::claim))
        .routes(routes!(lists::tables))
        .routes(routes!(trace::trace))
        .routes(routes!(transactions::commit))
        .routes(routes!(transactions::connect))
        .routes(routes!(topology::topology))
        .routes(routes!(topology::path))
        .routes(routes!(backup::backup))
        .routes(routes!(backup::restore))
        .routes(routes!(events::watch_network))
        .routes(routes!(southbound::list))
        .routes(routes!(southbound::get))
}

/// Routes of the resources, which [`describe`] describes.
pub(super) fn router() -> Router<Shared> {
    let mut router = Router::new();
    for route in description::published() {
        router = router.route(&route.path, handlers(&route.path));
    }
    router
}

fn handlers(path: &str) -> MethodRouter<Shared> {
    let under = path.split_once("/{id}").map(|(_, under)| under.trim_start_matches('/'));
    match under {
        None => get(lists::list).post(resources::create),
        Some("") => {
            get(resources::get).put(resources::replace).patch(resources::patch).delete(resources::delete)
        }
        Some(_) if description::is_members(path) => {
            get(members::list).post(members::add).delete(members::remove)
        }
        Some(_) => get(lists::list).post(resources::create),
    }
}
