//! A chassis without a kernel module: ovs-vswitchd with dummy devices and ovn-controller. Ports bound to it go up.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::LabError;
use super::process::Process;
use super::programs::{self, Programs};
use super::server::check_socket;
use super::tool::run;
use super::wait_for;
use crate::unixctl::Unixctl;

/// The name of the chassis.
const CHASSIS: &str = "lab";
/// The longest name of a socket here: the switch makes `br-int.mgmt`, ovn-controller `ovn-controller.<pid>.ctl`.
const LONGEST_SOCKET: &str = "ovn-controller.4194304.ctl";

/// The processes of one chassis. Dropping it kills them.
#[derive(Debug)]
pub struct Hypervisor {
    // Ended first to last.
    controller: Process,
    switch: Process,
    settings: Process,
    vsctl: PathBuf,
    database: String,
}

impl Hypervisor {
    pub(super) async fn start(
        dir: &Path,
        sockets: &Path,
        programs: &Programs,
        southbound: &str,
    ) -> Result<Hypervisor, LabError> {
        let switch = programs::find("ovs-vswitchd", "openvswitch-switch")?;
        let vsctl = programs::find("ovs-vsctl", "openvswitch-switch")?;
        let schema = programs::find_schema("vswitch.ovsschema", "openvswitch-switch")?;
        let controller = programs::find("ovn-controller", "ovn-host")?;
        let sockets = sockets.join("hv");
        fs::create_dir_all(&sockets).map_err(|e| LabError::io(format!("create {}", sockets.display()), e))?;
        check_socket(&sockets.join(LONGEST_SOCKET))?;
        let file = dir.join("hv.db");
        if !file.exists() {
            run(&programs.ovsdb_tool, &[OsString::from("create"), file.clone().into(), schema.into()])
                .await?;
        }
        let database = format!("unix:{}", sockets.join("db.sock").display());
        let quiet = ["--no-chdir", "-vconsole:info", "-vsyslog:off"].map(OsString::from);
        let process = |name: &str, program: &Path| {
            let process = Process::new(name, &programs.setpriv, program, dir.join(format!("{name}.log")));
            // Programs of this chassis find each other here.
            let process = process.environment("OVS_RUNDIR", &sockets).environment("OVN_RUNDIR", &sockets);
            process.arguments(quiet.clone())
        };
        let control =
            |name: &str| (format!("--unixctl={}", sockets.join(name).display()).into(), name.to_owned());
        let (db_control, db_ctl): (OsString, _) = control("db.ctl");
        let (switch_control, switch_ctl): (OsString, _) = control("switch.ctl");
        let settings = process("hv-ovsdb", &programs.ovsdb_server).arguments([
            db_control,
            format!("--remote=p{database}").into(),
            file.into(),
        ]);
        let switch = process("hv-vswitchd", &switch).arguments([
            switch_control,
            "--enable-dummy=override".into(),
            "--disable-system".into(),
            database.clone().into(),
        ]);
        let controller = process("hv-controller", &controller).arguments([database.clone().into()]);
        let mut hypervisor = Hypervisor { controller, switch, settings, vsctl, database };
        hypervisor.settings.start()?;
        wait_for(&mut hypervisor.settings, &Unixctl::new(sockets.join(db_ctl))).await?;
        hypervisor.configure(southbound).await?;
        hypervisor.switch.start()?;
        wait_for(&mut hypervisor.switch, &Unixctl::new(sockets.join(switch_ctl))).await?;
        hypervisor.controller.start()?;
        hypervisor.vsctl(&["--may-exist", "add-br", "br-int"]).await?;
        Ok(hypervisor)
    }

    async fn configure(&self, southbound: &str) -> Result<(), LabError> {
        let remote = format!("external_ids:ovn-remote=\"{southbound}\"");
        let id = format!("external_ids:system-id={CHASSIS}");
        let line = [
            "--no-wait",
            "--",
            "init",
            "--",
            "set",
            "Open_vSwitch",
            ".",
            &id,
            &remote,
            "external_ids:ovn-encap-type=geneve",
            "external_ids:ovn-encap-ip=127.0.0.1",
        ];
        self.vsctl(&line).await.map(drop)
    }

    /// Plugs a logical switch port in: it goes up when ovn-controller has seen it.
    pub async fn plug(&self, logical_port: &str) -> Result<(), LabError> {
        // Names of devices are short; the logical name need not be.
        let device = format!("vif-{:08x}", uuid::Uuid::new_v4().as_fields().0);
        let iface = format!("external_ids:iface-id=\"{logical_port}\"");
        let line = ["add-port", "br-int", &device, "--", "set", "Interface", &device, &iface];
        self.vsctl(&line).await.map(drop)
    }

    async fn vsctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        let database = format!("--db={}", self.database);
        let line: Vec<&str> = [super::TOOL_TIMEOUT, &database].iter().chain(arguments).copied().collect();
        run(&self.vsctl, &line).await
    }

    pub(super) fn pids(&mut self) -> Vec<(String, u32)> {
        let all = [&mut self.settings, &mut self.switch, &mut self.controller];
        all.into_iter().filter_map(|p| Some((p.name().to_owned(), p.pid()?))).collect()
    }

    pub(super) fn restart_ended(&mut self) -> Result<(), LabError> {
        let mut all = [&mut self.settings, &mut self.switch, &mut self.controller].into_iter();
        all.try_for_each(|process| process.start().map(drop))
    }

    pub(super) async fn stop(&mut self) {
        for process in [&mut self.controller, &mut self.switch, &mut self.settings] {
            process.stop().await;
        }
    }
}
