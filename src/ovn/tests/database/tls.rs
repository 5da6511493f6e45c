//! `ssl:` endpoints: both sides show certificates.

use ovncp_ovn::Uuid;
use ovncp_ovn::database::{Database, DatabaseSettings};
use ovncp_ovn::lab::{Certificates, Lab, Members};
use ovncp_ovn::wire::tls::TlsSettings;

use crate::support::{has_switch, insert, northbound_with, settings, switches, synced, until};

fn over_tls(lab: &Lab, certificates: &Certificates) -> DatabaseSettings {
    let endpoints = lab.northbound().iter().map(|server| server.ssl_endpoint().unwrap().parse().unwrap());
    let mut settings = settings(endpoints.collect());
    settings.tls = Some(TlsSettings {
        certificate: certificates.client.certificate.clone(),
        private_key: certificates.client.private_key.clone(),
        authority: certificates.authority.clone(),
        check_name: false,
    });
    settings
}

async fn refused(settings: DatabaseSettings, why: &str) {
    let database = Database::open(settings);
    until(why, || database.status().problem.is_some()).await;
    let status = database.status();
    let problem = status.problem.unwrap();
    assert!(!status.in_sync && problem.contains(why), "{problem}");
}

#[tokio::test]
async fn a_database_is_kept_over_tls() {
    let Some((mut lab, directory)) = northbound_with(Members::Standalone, |lab| lab.tls = true).await else {
        return;
    };
    let certificates = lab.certificates().unwrap().clone();
    let database = synced(over_tls(&lab, &certificates)).await;
    let uuid = Uuid::new_v4();
    database.transact(vec![insert(uuid, "s")]).await.unwrap();
    assert!(has_switch(&database, uuid));
    // More than one record in both directions.
    let many = (0..2_000).map(|number| insert(Uuid::new_v4(), &format!("switch-{number}"))).collect();
    database.transact(many).await.unwrap();
    assert_eq!(switches(&database), Some(2_001));
    let lost = database.metrics().sessions_lost.get();
    lab.northbound_mut()[0].kill();
    until("the session is lost", || database.metrics().sessions_lost.get() > lost).await;
    lab.northbound_mut()[0].start().await.unwrap();
    let mut named = over_tls(&lab, &certificates);
    named.tls.as_mut().unwrap().check_name = true;
    assert_eq!(switches(&synced(named).await), Some(2_001));

    let other = directory.path().join("other");
    let others = Certificates::create(&other, std::net::Ipv4Addr::LOCALHOST).await.unwrap();
    let mut stranger = over_tls(&lab, &certificates);
    stranger.tls.as_mut().unwrap().authority = others.authority;
    refused(stranger, "certificate").await;
    let mut bare = over_tls(&lab, &certificates);
    bare.tls = None;
    refused(bare, "an ssl: endpoint needs").await;
    let mut missing = over_tls(&lab, &certificates);
    missing.tls.as_mut().unwrap().private_key = directory.path().join("nowhere.pem");
    refused(missing, "nowhere.pem").await;
    let mut swapped = over_tls(&lab, &certificates);
    swapped.tls.as_mut().unwrap().private_key = certificates.server.private_key.clone();
    refused(swapped, "do not fit together").await;
}
