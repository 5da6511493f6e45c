//! Hosts as network namespaces: each has one TAP device, whose other end is a port of the [`Switch`].
//!
//! A TAP is made here and then moved into its namespace; the open descriptor stays good. The harness has a TAP of
//! its own, through which it reaches the nodes. Neighbours are written down on every host, so that a cut is silent:
//! without ARP nobody is told that a host is unreachable.

use std::fmt;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;

use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::AbortHandle;
use tokio_tun::Tun;

use super::switch::{FRAME_BYTES_MAX, Outlet, Switch, mac};
use super::{HOSTS_MAX, Links, NetError};
use crate::cluster::Place;
use crate::store::Leftovers;

/// Hosts live in 198.18.x.0/24, of the range for benchmarks (RFC 2544), which no real network uses.
const SUBNET: (u8, u8) = (198, 18);
/// Number of the harness in the subnet.
const HARNESS: u8 = 254;
/// What the names of all namespaces and devices of ours begin with.
const PREFIX: &str = "ovj";

/// Says why network namespaces cannot be used here, if so.
pub(super) fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    for (program, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        if !crate::store::on_path(program) {
            return Err(format!("no program `{program}` (Debian package {package})"));
        }
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    device.map(drop).map_err(|error| format!("/dev/net/tun: {error}"))
}

/// The namespaces of one run.
#[derive(Debug)]
pub(super) struct Namespaces {
    links: Arc<Links>,
    switch: Arc<Switch<Tap>>,
    leftovers: Leftovers,
    /// Distinguishes runs on one machine.
    tag: String,
    subnet: u8,
    made: Vec<String>,
    running: Vec<AbortHandle>,
}

/// One end of a host's only cable.
#[derive(Clone)]
struct Tap(Arc<Tun>);

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tap").field(&self.0.name()).finish()
    }
}

impl Outlet for Tap {
    async fn deliver(&self, frame: &[u8]) {
        // Refused while the device is down: the frame is lost, as on a pulled cable.
        let _ = self.0.send(frame).await;
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.running.iter().for_each(AbortHandle::abort);
        // Normally empty: see `remove`.
        for name in &self.made {
            let _ = std::process::Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

impl Namespaces {
    pub(super) async fn prepare(links: Arc<Links>, leftovers: Leftovers) -> Result<Self, NetError> {
        let tag = format!("{PREFIX}{:04x}", rand::rng().random::<u16>());
        let subnet = free_subnet(&ip(&["-4", "-o", "address", "show"], "").await?);
        let switch = Arc::new(Switch::new(Arc::clone(&links)));
        let mut it = Self { links, switch, leftovers, tag, subnet, made: Vec::new(), running: Vec::new() };
        let device = format!("{}h", it.tag);
        let tap = make_tap(&device)?;
        ip(&["-batch", "-"], &it.set_up(&device, HARNESS)).await?;
        it.plug(HARNESS, "harness", tap);
        Ok(it)
    }

    /// Address of a host.
    pub(super) fn address(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(SUBNET.0, SUBNET.1, self.subnet, number)
    }

    pub(super) async fn add_host(&mut self, name: &str, number: u8) -> Result<Place, NetError> {
        let namespace = format!("{}n{number}", self.tag);
        self.leftovers.namespace(&namespace).map_err(|error| NetError::io("write the state file", error))?;
        ip(&["netns", "add", &namespace], "").await?;
        self.made.push(namespace.clone());
        let tap = make_tap(&namespace)?;
        ip(&["link", "set", &namespace, "netns", &namespace], "").await?;
        let mut commands = self.set_up(&namespace, number);
        commands.push_str("link set lo up\n");
        ip(&["-n", &namespace, "-batch", "-"], &commands).await?;
        self.plug(number, name, tap);
        let address = self.address(number).to_string();
        // Not `ip netns exec`: that makes a mount namespace too, in which later mounts and unmounts are not seen.
        let wrapper = ["nsenter".to_owned(), format!("--net=/run/netns/{namespace}"), "--".to_owned()];
        Ok(Place { listen: address.clone(), advertised: address, wrapper: wrapper.to_vec() })
    }

    /// Commands for `ip` that give a device its addresses and its neighbours.
    fn set_up(&self, device: &str, number: u8) -> String {
        let mut commands = format!(
            "link set {device} address {}\naddress add {}/24 dev {device}\nlink set {device} up\n",
            mac_text(number),
            self.address(number)
        );
        for other in (1..=HOSTS_MAX).chain([HARNESS]).filter(|other| *other != number) {
            let (address, mac) = (self.address(other), mac_text(other));
            commands += &format!("neighbour add {address} lladdr {mac} dev {device} nud permanent\n");
        }
        commands
    }

    fn plug(&mut self, number: u8, host: &str, tap: Tap) {
        self.running.push(tokio::spawn(self.switch.connect(number, host, tap.clone())).abort_handle());
        let (switch, host) = (Arc::clone(&self.switch), host.to_owned());
        let reader = async move {
            let mut frame = vec![0; FRAME_BYTES_MAX];
            loop {
                match tap.0.recv(&mut frame).await {
                    Ok(length) => switch.take(number, &host, &frame[..length]).await,
                    Err(error) => {
                        tracing::debug!(host, %error, "the device is gone");
                        return;
                    }
                }
            }
        };
        self.running.push(tokio::spawn(reader).abort_handle());
    }

    /// Removes the namespaces; the devices in them go with them and with their descriptors.
    pub(super) async fn remove(mut self) -> Result<(), NetError> {
        for name in std::mem::take(&mut self.made) {
            ip(&["netns", "del", &name], "").await?;
            self.leftovers
                .namespace_gone(&name)
                .map_err(|error| NetError::io("write the state file", error))?;
        }
        debug_assert!(self.links.is_unharmed(), "faults are lifted before their network goes");
        Ok(())
    }
}

fn mac_text(number: u8) -> String {
    mac(number).map(|byte| format!("{byte:02x}")).join(":")
}

/// The first `x` of 198.18.x.0/24 that no device of this machine is in, from a random one on.
fn free_subnet(addresses: &str) -> u8 {
    let first: u8 = rand::rng().random();
    let taken = |x: u8| addresses.contains(&format!(" {}.{}.{x}.", SUBNET.0, SUBNET.1));
    (0..=u8::MAX).map(|step| first.wrapping_add(step)).find(|x| !taken(*x)).unwrap_or(first)
}

fn make_tap(name: &str) -> Result<Tap, NetError> {
    let trouble = |error: tokio_tun::Error| {
        NetError::io(format!("make the TAP device {name}"), std::io::Error::other(error))
    };
    let mut made = Tun::builder().name(name).tap().build().map_err(trouble)?;
    let tun = made.pop().ok_or_else(|| NetError::io(name, std::io::ErrorKind::NotFound.into()))?;
    Ok(Tap(Arc::new(tun)))
}

/// Runs `ip` with `input` on its standard input; gives what it printed.
async fn ip(arguments: &[&str], input: &str) -> Result<String, NetError> {
    let command = format!("ip {}", arguments.join(" "));
    let run = async {
        let mut child = Command::new("ip")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = run.await.map_err(|error| NetError::io(format!("run `{command}`"), error))?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetError::Command { command, problem });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
#[path = "netns_tests.rs"]
mod real_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_that_is_in_use_is_not_taken() {
        let all_but_7: String =
            (0..=255).filter(|x| *x != 7).map(|x| format!("inet 198.18.{x}.254/24\n")).collect();
        assert_eq!(free_subnet(&all_but_7), 7);
    }

    #[test]
    fn names_of_devices_fit_the_kernel() {
        assert!(format!("{PREFIX}{:04x}n{HOSTS_MAX}", u16::MAX).len() < 16);
    }
}
