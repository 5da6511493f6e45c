//! Who dialled: the node at the other end of a local TCP connection, found through `/proc`.
//!
//! Peers dial each other's proxy from the same loopback address, so the address does not tell them apart. The
//! kernel's table of connections names the socket's inode, and the node that has it open is the dialler.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;

/// The name among `pids` (name, process id) that has the connection `from` -> `to` open.
pub(super) fn identify(
    from: SocketAddr,
    to: SocketAddr,
    pids: &[(String, u32)],
) -> io::Result<Option<String>> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { return Ok(None) };
    let Some(inode) = inode(&std::fs::read_to_string("/proc/self/net/tcp")?, from, to) else {
        return Ok(None);
    };
    let socket = format!("socket:[{inode}]");
    let found = pids.iter().find(|(_, pid)| has_open(&Path::new("/proc").join(pid.to_string()), &socket));
    Ok(found.map(|(name, _)| name.clone()))
}

/// The inode of the connection in a table in the form of `/proc/net/tcp`.
fn inode(table: &str, from: SocketAddrV4, to: SocketAddrV4) -> Option<u64> {
    let (from, to) = (hex(from), hex(to));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let here = fields.next()? == from && fields.next()? == to;
        // Between the addresses and the inode: state, queues, timer, retransmits, user, time-out.
        if here { fields.nth(6)?.parse().ok().filter(|inode| *inode != 0) } else { None }
    })
}

/// An address as the kernel prints it: the bytes of the address as a number of this machine, in hex.
fn hex(address: SocketAddrV4) -> String {
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

fn has_open(process: &Path, socket: &str) -> bool {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return false };
    files
        .flatten()
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_with_the_socket_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        let to = accepted.local_addr().unwrap();
        assert_eq!(from, dialled.local_addr().unwrap());
        // Process 1 has other sockets, if it lets itself be looked at.
        let pids = [("n1".to_owned(), 1), ("n2".to_owned(), std::process::id())];
        assert_eq!(identify(from, to, &pids).unwrap().as_deref(), Some("n2"));
        assert_eq!(identify(from, to, &pids[..1]).unwrap(), None);
        drop(dialled);
        assert_eq!(identify(from, to, &[]).unwrap(), None);
    }

    #[test]
    fn a_line_of_the_table_is_read_as_the_kernel_writes_it() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  1: 0100007F:8AE2 6501007F:1CE8 01 00000000:00000000 00:00000000 00000000     0        0 423117 1\n";
        let (from, to) = ("127.0.0.1:35554".parse().unwrap(), "127.0.1.101:7400".parse().unwrap());
        assert_eq!(inode(table, from, to), Some(423_117).filter(|_| cfg!(target_endian = "little")));
        assert_eq!(inode(table, to, from), None);
    }
}
