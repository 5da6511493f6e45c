//! Backup of the northbound database, and the way back.

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ovncp_ovn::backup::{Backup, BackupError, Change, Difference};
use ovncp_ovn::schema::TableSchema;
use ovncp_ovn::value::Datum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::api::Shared;
use crate::api::error::{ApiError, Code};
use crate::api::extract::{Admin, ConsistencyParam, Query, check_json, parse_json, read_body};
use crate::services::network::{RestoreError, Restored};
use crate::wall_clock;

/// Largest backup that a restore takes, in bytes.
const BACKUP_BYTES_MAX: usize = 128 * 1_024 * 1_024;
/// Most rows that an answer lists.
const CHANGES_LISTED_MAX: usize = 1_000;

/// How fresh.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BackupQuery {
    /// How fresh the read must be.
    pub consistency: Option<ConsistencyParam>,
}

/// Whether to do it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RestoreQuery {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a restore changed, or would.
#[derive(Debug, Serialize, ToSchema)]
pub struct RestoreReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Rows that are made.
    pub created: usize,
    /// Rows that get other values.
    pub updated: usize,
    /// Rows that go.
    pub deleted: usize,
    /// The first 1,000 of them.
    pub changes: Vec<RowChange>,
    /// How many are not listed.
    pub changes_left_out: usize,
    /// Rows that differ from the backup after the restore, because others changed them meanwhile.
    pub remaining: usize,
}

/// What happens to one row.
#[derive(Debug, Serialize, ToSchema)]
pub struct RowChange {
    /// Its table.
    pub table: String,
    /// Its uuid.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// `create`, `update` or `delete`.
    pub action: &'static str,
    /// `{"before", "after"}` of each column that changes; empty for a row that goes.
    pub columns: Map<String, Value>,
}

impl RowChange {
    fn new(change: &Change) -> Self {
        let table = change.table();
        let plain = |column: &str, value: &Datum| {
            table.column(column).map_or(Value::Null, |(_, column)| value.to_plain(column))
        };
        let mut name = None;
        let mut columns = Map::new();
        let action = match change {
            Change::Create { row, .. } => {
                for (column, value) in row {
                    columns
                        .insert(column.to_string(), json!({"before": null, "after": plain(column, value)}));
                    name = name.or((&**column == "name").then(|| value.as_str()).flatten());
                }
                "create"
            }
            Change::Update { columns: changed, .. } => {
                for change in changed {
                    let (before, after) =
                        (plain(&change.column, &change.before), plain(&change.column, &change.after));
                    columns.insert(change.column.to_string(), json!({"before": before, "after": after}));
                    name = name.or((&*change.column == "name").then(|| change.after.as_str()).flatten());
                }
                "update"
            }
            Change::Delete { row, .. } => {
                name = TableSchema::value(table, row, "name").and_then(Datum::as_str);
                "delete"
            }
        };
        Self {
            table: table.name.to_string(),
            id: change.uuid().to_string(),
            name: name.filter(|name| !name.is_empty()).map(str::to_owned),
            action,
            columns,
        }
    }
}

impl RestoreReport {
    fn new(restored: &Restored, dry_run: bool) -> Self {
        let Difference { changes } = &restored.difference;
        let (created, updated, deleted) = restored.difference.counts();
        Self {
            dry_run,
            created,
            updated,
            deleted,
            changes: changes.iter().take(CHANGES_LISTED_MAX).map(RowChange::new).collect(),
            changes_left_out: changes.len().saturating_sub(CHANGES_LISTED_MAX),
            remaining: restored.remaining.changes.len(),
        }
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> Self {
        let detail = error.to_string();
        match error {
            RestoreError::Backup(BackupError::Checksum { stated, computed }) => {
                Self::new(Code::InvalidResource, detail).with("stated", stated).with("computed", computed)
            }
            RestoreError::Backup(_) => Self::new(Code::InvalidResource, detail),
            RestoreError::Misfits(misfits) => {
                let left_out = misfits.total - misfits.listed.len();
                let problems = misfits.listed.iter().map(|misfit| {
                    json!({"table": misfit.table, "column": misfit.column, "id": misfit.uuid.map(|id| id.to_string()),
                        "problem": misfit.problem})
                });
                let problems: Vec<_> = problems.collect();
                Self::new(Code::UnsupportedBySchema, detail)
                    .with("problems", problems)
                    .with("problems_left_out", left_out)
            }
            RestoreError::TooLarge(_) => Self::new(Code::BodyTooLarge, detail),
            RestoreError::Network(error) => error.into(),
        }
    }
}

/// Takes a backup of the northbound database: every table with the uuids of its rows and the references between them, and a
/// checksum. What OVN and the database server write themselves is left out, and so are the rows that ovncp keeps for itself.
#[utoipa::path(get, path = "/api/v1/ovn/backup", tag = "network", operation_id = "backup_ovn", params(BackupQuery),
    responses((status = 200, body = Object, description = "The backup, as restore takes it.")))]
pub(super) async fn backup(
    State(app): State<Shared>,
    Query(query): Query<BackupQuery>,
) -> Result<Response, ApiError> {
    let taken_at = wall_clock::rfc3339(wall_clock::unix_ms());
    let file = format!("attachment; filename=\"ovn-nb-{}.json\"", taken_at.replace(':', "-"));
    let backup = app.network.backup(query.consistency.unwrap_or_default().into(), taken_at).await?;
    // Large: not on a thread that serves others.
    let text = tokio::task::spawn_blocking(move || backup.to_json().to_string()).await;
    let text = text.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(file) = HeaderValue::from_str(&file) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, file);
    }
    Ok(response)
}

/// The body of a restore.
pub(super) struct BackupBody(Backup);

impl FromRequest<Shared> for BackupBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        check_json(request.headers())?;
        let raw = read_body(request, BACKUP_BYTES_MAX, app.body_timeout).await?;
        let parsed = tokio::task::spawn_blocking(move || {
            let document: Value = parse_json(&raw)?;
            Backup::parse(&document).map_err(|error| ApiError::from(RestoreError::from(error)))
        });
        let parsed = parsed.await.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        parsed.map(Self)
    }
}

/// Makes the northbound database what a backup says, in one transaction: rows keep their uuids, rows that the backup does not
/// have are deleted. With `dry_run=true` it only says what would change. A backup that does not fit the servers' schema, is
/// not complete or was changed is refused with every reason. Restores exclude each other with a fenced lock
/// (`ovncp.ovn:restore`); what others write meanwhile is reported as `remaining`.
#[utoipa::path(post, path = "/api/v1/ovn/restore", tag = "network", operation_id = "restore_ovn", params(RestoreQuery),
    request_body = Object, security(("admin" = [])),
    responses((status = 200, body = RestoreReport, description = "What changed, or would."),
        (status = 409, description = "`lock_held`: another restore is under way; `ovn_rejected`"),
        (status = 412, description = "`fenced`: a later restore has begun")))]
pub(super) async fn restore(
    _: Admin,
    State(app): State<Shared>,
    Query(query): Query<RestoreQuery>,
    BackupBody(backup): BackupBody,
) -> Result<Json<RestoreReport>, ApiError> {
    app.refuse_when_draining()?;
    let restored = match query.dry_run {
        true => app.network.restore_dry(backup).await?,
        false => app.network.restore(backup).await?,
    };
    Ok(Json(RestoreReport::new(&restored, query.dry_run)))
}
