//! How far a write has come.

use std::sync::Arc;
use std::time::Duration;

use ovncp_ovn::Uuid;
use ovncp_ovn::barrier::{Barrier, BarrierError, Reach};
use ovncp_ovn::lab::{Lab, LabSettings};

use super::support::PATIENCE;
use super::{directory, open, switch};

#[tokio::test]
async fn what_was_written_before_is_in_the_southbound_database() {
    let directory = directory();
    let mut lab = Lab::start(LabSettings::new(directory.path())).await.unwrap();
    let database = open(&lab).await;
    let barrier = Arc::new(Barrier::new(database.clone()));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..20_u128 {
        let (barrier, database) = (Arc::clone(&barrier), database.clone());
        writers.spawn(async move {
            let name = format!("switch-{number}");
            database.transact(vec![switch(Uuid::from_u128(number + 1), &name)]).await.unwrap();
            // Without hypervisors the farther one is passed with the nearer one.
            let reach = if number % 2 == 0 { Reach::Southbound } else { Reach::Hypervisors };
            barrier.wait(reach, PATIENCE).await.unwrap();
            name
        });
    }
    let names = writers.join_all().await;
    let found = lab.sbctl(&["--bare", "--columns=external_ids", "list", "Datapath_Binding"]).await.unwrap();
    assert!(names.iter().all(|name| found.contains(name)), "{found}");
    let raised = database.read(|contents| {
        let table = contents.table("NB_Global").unwrap();
        table.schema().value(table.rows().next().unwrap(), "nb_cfg").unwrap().atoms()[0].clone()
    });
    // One for each at most; they share what they can, and how much that is depends on the machine.
    let raised: i64 = raised.unwrap().to_string().parse().unwrap();
    assert!((1..=20).contains(&raised), "{raised}");

    lab.northd_mut().unwrap().pause().await.unwrap();
    let waited = barrier.wait(Reach::Southbound, Duration::from_millis(200)).await;
    let Err(BarrierError::Open { what, wanted, reached }) = waited else { panic!("{waited:?}") };
    assert_eq!(what, "sb_cfg");
    assert!(reached < wanted);
    lab.northd_mut().unwrap().resume().unwrap();
    barrier.wait(Reach::Southbound, PATIENCE).await.unwrap();
}
