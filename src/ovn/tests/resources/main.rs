//! Resources against real servers: what is planned is what happens, and matches are judged as OVN judges them.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::contents::Contents;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::error::TransactError;
use ovncp_ovn::lab::{Lab, LabSettings, Members, Programs};
use ovncp_ovn::operation::Operation;
use ovncp_ovn::resource::{
    Catalogue, IfMatch, Outcome, Plan, Planner, Refusal, RefusalKind, Resource, View, transaction,
};
use ovncp_ovn::wire::endpoint::Endpoint;
use serde_json::{Value as Json, json};

mod matches;
mod samples;

use matches::Random;
use samples::samples;

/// Generous: machines that run tests do much else.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    database: Database,
    catalogue: Catalogue,
    lab: Lab,
    _directory: tempfile::TempDir,
}

impl World {
    /// None where OVN is not installed; says so.
    pub(crate) async fn start(whole: bool) -> Option<Self> {
        if let Err(missing) = Programs::find() {
            eprintln!("skipped: {missing}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("res").tempdir_in("/tmp").unwrap();
        let settings = if whole {
            LabSettings::new(directory.path())
        } else {
            LabSettings::northbound_only(directory.path(), Members::Standalone)
        };
        let lab = Lab::start(settings).await.unwrap();
        let endpoints = Endpoint::parse_list(&lab.northbound()[0].unix_endpoint()).unwrap();
        let database = Database::open(DatabaseSettings {
            name: "OVN_Northbound",
            endpoints,
            connect_timeout: PATIENCE,
            tls: None,
            leader_only: true,
            tables: None,
            probe_interval: PATIENCE,
        });
        database.wait_synced(PATIENCE).await.unwrap();
        let catalogue = Catalogue::new(&database.schema().unwrap());
        Some(Self { database, catalogue, lab, _directory: directory })
    }

    fn resource(&self, path: &str) -> Arc<Resource> {
        Arc::clone(self.catalogue.by_path(path).unwrap())
    }

    fn plan(
        &self,
        make: impl FnOnce(&Contents, &Catalogue, &mut dyn FnMut() -> Uuid) -> Result<Plan, Refusal>,
    ) -> Result<Plan, Refusal> {
        self.database.read(|contents| make(contents, &self.catalogue, &mut Uuid::new_v4)).unwrap()
    }

    /// Plans and commits; the first row.
    async fn commit(&self, plan: Result<Plan, Refusal>) -> Result<Uuid, Refusal> {
        let plan = plan?;
        match self.database.transact(plan.operations.clone()).await {
            Ok(results) => {
                plan.verify(&results).unwrap();
                Ok(plan.answers[0].id)
            }
            Err(TransactError::Rejected(rejection)) => {
                Err(self.database.read(|contents| plan.explain(&rejection, 0, contents)).unwrap())
            }
            Err(other) => panic!("{other}"),
        }
    }

    async fn step(&self, step: impl FnOnce(&mut Planner<'_>)) -> Result<Uuid, Refusal> {
        let plan = self.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            step(&mut planner);
            planner.finish()
        });
        self.commit(plan).await
    }

    async fn create(&self, path: &str, body: &Json) -> Result<Uuid, Refusal> {
        let resource = self.resource(path);
        self.step(|planner| {
            planner.create(&resource, None, body);
        })
        .await
    }

    fn view(&self, path: &str, id: Uuid) -> Option<(Json, String)> {
        let resource = self.resource(path);
        self.database
            .read(|contents| {
                let row = resource.find(contents, &id.to_string()).ok()?;
                let view = View::new(&resource, &row, contents);
                Some((view.to_json(), view.etag()))
            })
            .unwrap()
    }

    /// The row as `ovn-nbctl` prints it, by column, in wire form.
    async fn listed(&self, table: &str, id: Uuid) -> BTreeMap<String, Json> {
        let text = self.lab.nbctl(&["--format=json", "list", table, &id.to_string()]).await.unwrap();
        let listed: Json = serde_json::from_str(&text).unwrap();
        let names =
            listed["headings"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
        names.zip(listed["data"][0].as_array().unwrap().iter().cloned()).collect()
    }
}

#[tokio::test]
async fn one_of_everything_is_made_read_changed_and_deleted() {
    let Some(world) = World::start(false).await else { return };
    let samples = samples();
    let tried: BTreeSet<_> = samples.iter().map(|(path, _, _)| *path).chain(["nb-global"]).collect();
    let all: BTreeSet<_> = world.catalogue.typed().map(|resource| resource.path.to_string()).collect();
    assert_eq!(
        tried.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
        all,
        "every resource has a sample"
    );
    let mut made = Vec::new();
    for (path, body, patch) in &samples {
        let resource = world.resource(path);
        let id = world.create(path, body).await.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        let (created, etag) = world.view(path, id).unwrap();
        same_as_listed(&world, &resource, id, &created).await;
        for (field, value) in body.as_object().unwrap() {
            let plain = !value.to_string().contains('{') || value.is_object();
            let literal = resource
                .field(field)
                .is_some_and(|column| resource.table.columns[column].key.ref_table.is_none());
            assert!(!(plain && literal) || created[field] == *value, "{path} {field}: {created}");
        }
        // Changed with its ETag, not with an old one.
        let with = |etag: &str| IfMatch::parse(&format!("\"{etag}\"")).unwrap();
        let patched = world
            .step(|planner| {
                planner.patch(&resource, &id.to_string(), patch, &with(&etag));
            })
            .await;
        assert_eq!(patched.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}")), id);
        let (changed, new_etag) = world.view(path, id).unwrap();
        assert_ne!(etag, new_etag, "{path}");
        same_as_listed(&world, &resource, id, &changed).await;
        let again = world
            .step(|planner| {
                planner.patch(&resource, &id.to_string(), patch, &with(&etag));
            })
            .await;
        assert_eq!(again.unwrap_err().kind, RefusalKind::PreconditionFailed, "{path}");
        // What was read can be sent back, and changes nothing.
        let put = world.step(|planner| {
            planner.replace(&resource, &id.to_string(), &changed, &with(&new_etag));
        });
        put.await.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"));
        assert_eq!(world.view(path, id).unwrap(), (changed, new_etag), "{path}");
        made.push((resource, id));
    }
    while let Some((resource, id)) = made.pop() {
        let etag = world.view(&resource.path, id).unwrap().1;
        let if_match = IfMatch::Of(vec![etag]);
        let gone = world
            .step(|planner| {
                planner.delete(&resource, &id.to_string(), &if_match);
            })
            .await;
        gone.unwrap_or_else(|refusal| panic!("{}: {refusal:?}", resource.path));
        assert!(world.view(&resource.path, id).is_none(), "{}", resource.path);
    }
    let left = world.database.read(|contents| {
        let tables =
            contents.tables().filter(|table| !matches!(&*table.schema().name, "NB_Global" | "Connection"));
        tables.map(|table| table.len()).sum::<usize>()
    });
    assert_eq!(left, Some(0), "everything went with what held it");
}

/// `ovn-nbctl list` shows the same values.
async fn same_as_listed(world: &World, resource: &Resource, id: Uuid, json: &Json) {
    let listed = world.listed(&resource.table.name, id).await;
    for (column, field) in resource.table.columns.iter().zip(&resource.fields) {
        let listed = &listed[&*column.name];
        let value = ovncp_ovn::value::Datum::from_wire(listed, column).unwrap();
        assert_eq!(json[&*field.name], value.to_plain(column), "{} {}", resource.table.name, column.name);
    }
}

#[tokio::test]
async fn what_changes_behind_the_replica_is_noticed() {
    let Some(world) = World::start(false).await else { return };
    world.create("switches", &json!({"name": "blue"})).await.unwrap();
    let switches = world.resource("switches");
    let ports = world.resource("ports");
    // Plans that are made first and sent after somebody else was faster.
    let named = |name: &str| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.create(&switches, None, &json!({"name": name}));
            planner.finish()
        })
    };
    let (first, second) = (named("red"), named("red"));
    world.commit(first).await.unwrap();
    let refusal = world.commit(second).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "duplicate_name"));

    let port = |name: &str| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.create(&ports, None, &json!({"name": name, "switch_id": "blue"}));
            planner.finish()
        })
    };
    let (first, second, orphan) = (port("vm1"), port("vm1"), port("vm2"));
    world.commit(first).await.unwrap();
    let refusal = world.commit(second).await.unwrap_err();
    assert_eq!((refusal.code, refusal.problems[0].pointer.as_str()), ("duplicate_name", "/name"));
    assert_eq!(refusal.rows[0].name.as_deref(), Some("vm1"));

    let etag = world.database.read(|contents| {
        let row = switches.find(contents, "blue").unwrap();
        ovncp_ovn::resource::etag(&switches, &row)
    });
    let change = |if_match: IfMatch| {
        world.plan(|contents, catalogue, fresh| {
            let mut planner = Planner::new(contents, catalogue, fresh);
            planner.patch(&switches, "blue", &json!({"external_ids": {"a": "b"}}), &if_match);
            planner.finish()
        })
    };
    let (stale, careless) = (change(IfMatch::Of(vec![etag.unwrap()])), change(IfMatch::None));
    world.lab.nbctl(&["set", "Logical_Switch", "blue", "external_ids:a=c"]).await.unwrap();
    let refusal = world.commit(stale).await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::PreconditionFailed);
    let current = refusal.current_etag.unwrap();
    world.commit(careless).await.unwrap();
    let found = world.lab.nbctl(&["get", "Logical_Switch", "blue", "external_ids:a"]).await.unwrap();
    assert_eq!(found.trim(), "b");
    assert!(!current.is_empty());

    world.lab.nbctl(&["ls-del", "blue"]).await.unwrap();
    let refusal = world.commit(orphan).await.unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Conflict, "reference_gone"));
    let late = world
        .step(|planner| {
            planner.delete(&switches, "blue", &IfMatch::None);
        })
        .await;
    assert_eq!(late.unwrap_err().kind, RefusalKind::NotFound);
    let left = world.lab.nbctl(&["--bare", "--columns=name", "list", "Logical_Switch_Port"]).await.unwrap();
    assert_eq!(left.trim(), "", "nothing half done");
}

#[tokio::test]
async fn a_large_transaction_happens_at_once_or_not_at_all() {
    let Some(world) = World::start(false).await else { return };
    let mut steps =
        vec![json!({"op": "create", "resource": "switches", "ref": "s", "body": {"name": "blue"}})];
    for number in 0..2_000 {
        steps.push(json!({"op": "create", "resource": "ports", "parent": {"ref": "s"}, "body": {"name": format!("p{number}")}}));
    }
    let run = |steps: &Json| {
        world.plan(|contents, catalogue, fresh| {
            transaction::plan(contents, catalogue, fresh, steps, "/operations")
        })
    };
    let plan = run(&Json::from(steps.clone())).unwrap();
    assert_eq!(plan.answers.len(), 2_001);
    // Somebody takes one of the names between plan and commit.
    world.lab.nbctl(&["ls-add", "red", "--", "lsp-add", "red", "p1999"]).await.unwrap();
    let refusal = world.commit(Ok(plan)).await.unwrap_err();
    assert_eq!(refusal.problems[0].pointer, "/operations/2000/body/name");
    let count = |table: &str| {
        let table = table.to_owned();
        world.database.read(|contents| contents.table(&table).unwrap().len()).unwrap()
    };
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (1, 1));
    steps.pop();
    let plan = run(&Json::from(steps));
    assert_eq!(plan.as_ref().unwrap().answers[1].outcome, Outcome::Created);
    world.commit(plan).await.unwrap();
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (2, 2_000));
    let switches = world.resource("switches");
    world
        .step(|planner| {
            planner.delete(&switches, "blue", &IfMatch::None);
        })
        .await
        .unwrap();
    assert_eq!((count("Logical_Switch"), count("Logical_Switch_Port")), (1, 1));
}

/// Bodies that are tried, per resource.
const BODIES: usize = 60;

/// What the engine lets through, the server takes: nothing that it could have told is left to the database.
#[tokio::test]
async fn what_is_let_through_is_taken() {
    let Some(world) = World::start(false).await else { return };
    let mut made = Vec::new();
    for (path, body, _) in samples() {
        made.push((world.resource(path), body.clone(), world.create(path, &body).await.unwrap()));
    }
    let values = [
        json!(null),
        json!(""),
        json!("x"),
        json!(0),
        json!(1),
        json!(-1),
        json!(5),
        json!(70_000),
        json!(1.5),
        json!(true),
        json!([]),
        json!(["x"]),
        json!(["10.0.0.1"]),
        json!([1, "a"]),
        json!({}),
        json!({"a": "b"}),
        json!({"a": 1}),
        json!({"rate": 5}),
        json!("10.0.0.1"),
        json!("10.0.0.0/24"),
        json!(["10.7.0.1/24"]),
        json!("0a:00:00:00:00:01"),
        json!({"ref": "x"}),
        json!([{}]),
        json!("vm1"),
        json!("hosts"),
        json!(["lb"]),
        json!("drop"),
        json!("tcp"),
        json!("udp"),
        json!("x".repeat(64)),
        json!("x".repeat(300)),
        json!("a\u{0}b"),
        json!(4_294_967_296_i64),
        json!(["lb", "lb"]),
        json!([{"name": "within", "chassis_name": "c", "priority": 5}]),
        json!([{"action": "drop", "rate": 7}]),
    ];
    let mut random = Random(7);
    let (mut taken, mut refused) = (0, 0);
    for (resource, sample, id) in &made {
        for number in 0..BODIES {
            let field = &resource.fields[random.below(resource.fields.len())].name;
            let value = &values[random.below(values.len())];
            let mut body = sample.clone();
            if body.get("name").is_some() {
                body["name"] = json!(format!("n{number}"));
            }
            for (key, other) in [
                ("ip", json!(format!("10.3.0.{number}"))),
                ("dst_ip", json!(format!("10.3.0.{number}"))),
                ("chassis", json!(format!("c{number}x"))),
            ] {
                if body.get(key).is_some() {
                    body[key] = other;
                }
            }
            body[&**field] = value.clone();
            let patch = json!({ &**field: value });
            let plans = [
                world.plan(|contents, catalogue, fresh| {
                    let mut planner = Planner::new(contents, catalogue, fresh);
                    planner.create(resource, None, &body);
                    planner.finish()
                }),
                world.plan(|contents, catalogue, fresh| {
                    let mut planner = Planner::new(contents, catalogue, fresh);
                    planner.patch(resource, &id.to_string(), &patch, &IfMatch::None);
                    planner.finish()
                }),
            ];
            let [create, patch] = plans;
            for (plan, stays) in [(create, true), (patch, false)] {
                let Ok(plan) = plan else {
                    refused += 1;
                    continue;
                };
                taken += 1;
                let told = format!("{} {field} = {value}", resource.path);
                if stays {
                    let created =
                        world.commit(Ok(plan)).await.unwrap_or_else(|refusal| panic!("{told}: {refusal:?}"));
                    let created = created.to_string();
                    let gone = world
                        .step(|planner| {
                            planner.delete(resource, &created, &IfMatch::None);
                        })
                        .await;
                    gone.unwrap_or_else(|refusal| panic!("{told}: {refusal:?}"));
                    continue;
                }
                // The sample stays as it is: the last operation fails when all others have worked.
                let mut operations = plan.operations;
                let last = operations.len();
                operations.push(Operation::wait_absent("NB_Global", "nb_cfg", 0));
                match world.database.transact(operations).await {
                    Err(TransactError::Rejected(rejection)) if rejection.operation == Some(last) => {}
                    other => panic!("{told}: {other:?}"),
                }
            }
        }
    }
    assert!(taken > 200 && refused > 200, "{taken} taken and {refused} refused tell little");
}
