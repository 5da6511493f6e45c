//! Tables of the northbound database as resources of an API: what they are called, what they may hold, how requests become
//! transactions and rows become JSON.
//!
//! Pure: a request and the replica go in, a [`Plan`] or a [`Refusal`] comes out. One engine serves every table, the typed
//! resources ([`specs`]) and the generic ones alike.
//!
//! - [`catalogue`]: what a server with this schema has.
//! - [`planner`], `values`, `guards`: from bodies to one transaction; `syntax`, `rules` and [`expression`] check what the schema cannot.
//! - [`plan`]: the transaction, how its results are read, and what a rejection means.
//! - [`transaction`]: many steps at once, with names for the rows they make; [`builtin`]: steps that belong together.
//! - [`view`]: rows as JSON, and their ETags; [`query`]: lists of them.

pub mod builtin;
pub mod catalogue;
pub mod expression;
mod guards;
pub mod plan;
pub mod planner;
pub mod query;
pub mod refusal;
pub mod rules;
pub mod specs;
pub mod syntax;
#[cfg(test)]
mod tests;
pub mod transaction;
mod values;
pub mod view;

pub use catalogue::{Catalogue, Field, Parent, Resource, Role};
pub use plan::{Answer, IfMatch, Outcome, Plan};
pub use planner::Planner;
pub use query::{Page, Query};
pub use refusal::{Invalid, Named, Refusal, RefusalKind};
pub use values::REFERENCE;
pub use view::{View, etag};
