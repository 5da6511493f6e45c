//! What would happen to a packet.

use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use ovncp_ovn::trace::{CtFlag, Detail, LoadBalancerTarget, Step, Trace, TraceRequest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::Shared;
use crate::api::error::ApiError;
use crate::api::extract::JsonBody;

/// How much text is wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TraceDetail {
    /// Every table with its match.
    Detailed,
    /// Every action.
    #[default]
    Summary,
    /// What can be seen from outside.
    Minimal,
}

/// The member that load balancers choose.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Its port.
    pub port: Option<u16>,
}

/// One packet.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceBody {
    /// The switch or router where it starts, by name or id; if absent, the one that has the inport.
    pub datapath: Option<String>,
    /// The packet as an OVN expression, with its inport: `inport == "p1" && eth.src == ... && ip4.dst == ...`.
    pub microflow: String,
    /// What each pass through the connection tracker finds (`new`, `est`, `rel`, `rpl`, `inv`, ...), in order.
    #[serde(default)]
    pub ct: Vec<Vec<String>>,
    /// The member that load balancers choose, if they have it.
    pub lb_dst: Option<Target>,
    /// How much text is wanted.
    #[serde(default)]
    pub detail: TraceDetail,
}

/// One table with something to say.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceStep {
    /// `ingress` or `egress`.
    pub pipeline: String,
    /// The switch or router.
    pub datapath: String,
    /// Number of the table.
    pub table: u32,
    /// Its name, such as `ls_in_acl`.
    pub name: String,
    /// The match that applies; null: none does, and the packet ends here.
    #[serde(rename = "match")]
    pub matched: Option<String>,
    /// Its priority.
    pub priority: Option<u32>,
    /// What is done.
    pub actions: Vec<String>,
}

/// The way of the packet.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceAnswer {
    /// `delivered` or `dropped`.
    pub verdict: &'static str,
    /// Ports that get the packet, a copy, or an answer to it.
    pub outputs: Vec<String>,
    /// What went wrong on the way.
    pub errors: Vec<String>,
    /// The packet, as OpenFlow writes it.
    pub packet: String,
    /// The tables on the way, in order.
    pub steps: Vec<TraceStep>,
    /// Whether steps were left out, because there are too many.
    pub truncated: bool,
    /// What ovn-trace printed.
    pub text: String,
}

impl TraceBody {
    fn request(self) -> Result<TraceRequest, ApiError> {
        let flag = |text: &String| {
            CtFlag::parse(text).ok_or_else(|| {
                let known: Vec<_> = CtFlag::NAMES.iter().map(|(name, _)| *name).collect();
                ApiError::invalid("ct", format!("{text:?} is no flag; known are {}", known.join(", ")))
            })
        };
        let ct = self.ct.iter().map(|pass| pass.iter().map(flag).collect()).collect::<Result<_, _>>()?;
        let lb_dst =
            self.lb_dst.map(|target| LoadBalancerTarget { address: target.address, port: target.port });
        let detail = match self.detail {
            TraceDetail::Detailed => Detail::Detailed,
            TraceDetail::Summary => Detail::Summary,
            TraceDetail::Minimal => Detail::Minimal,
        };
        Ok(TraceRequest { datapath: self.datapath, microflow: self.microflow, ct, lb_dst, detail })
    }
}

impl From<Trace> for TraceAnswer {
    fn from(trace: Trace) -> Self {
        let summary = trace.summary;
        let step = |step: Step| TraceStep {
            pipeline: step.pipeline.direction,
            datapath: step.pipeline.datapath,
            table: step.table,
            name: step.name,
            matched: step.matched,
            priority: step.priority,
            actions: step.actions,
        };
        Self {
            verdict: if summary.outputs.is_empty() { "dropped" } else { "delivered" },
            outputs: summary.outputs,
            errors: summary.errors,
            packet: summary.packet,
            steps: summary.steps.into_iter().map(step).collect(),
            truncated: summary.truncated,
            text: trace.text,
        }
    }
}

/// Traces a packet through the logical network, as ovn-northd has compiled it. Sees what was carried into the southbound
/// database before the call: write with `wait=sb` first.
#[utoipa::path(post, path = "/api/v1/trace", tag = "network", operation_id = "trace_packet", request_body = TraceBody,
    responses((status = 200, body = TraceAnswer, description = "The way of the packet.")))]
pub(super) async fn trace(
    State(app): State<Shared>,
    body: JsonBody<TraceBody>,
) -> Result<Json<TraceAnswer>, ApiError> {
    let request = body.value.request()?;
    Ok(Json(app.network.trace(&request).await?.into()))
}
