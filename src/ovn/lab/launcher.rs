//! Starts children that cannot outlive this process.
//!
//! Linux can end a child when its parent dies, whatever the parent dies of (`PR_SET_PDEATHSIG`). The child has to
//! ask for it itself, between fork and exec, and that takes unsafe code in Rust. So each program is started by
//! `setpriv --pdeathsig KILL`, of util-linux: it asks, then becomes the program, under the same process id.
//!
//! "The parent" is the *thread* that made the child. Tests and tasks run on threads that come and go, so one thread
//! of this process makes all children and never ends.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Orders that wait for the thread; each caller has at most one.
const ORDERS_MAX: usize = 16;

static THREAD: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);

struct Order {
    command: Command,
    answer: SyncSender<io::Result<Child>>,
}

/// Starts a program. The call takes as long as a fork.
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let (answer, child) = sync_channel(1);
    let lost = || io::Error::other("the thread that starts processes is gone");
    orders()?.send(Order { command, answer }).map_err(|_| lost())?;
    child.recv().map_err(|_| lost())?
}

fn orders() -> io::Result<SyncSender<Order>> {
    let mut thread = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(orders) = &*thread {
        return Ok(orders.clone());
    }
    let (orders, work) = sync_channel(ORDERS_MAX);
    std::thread::Builder::new().name("ovn-lab".to_owned()).spawn(move || run(&work))?;
    Ok(thread.insert(orders).clone())
}

fn run(work: &Receiver<Order>) {
    // Ends with the process: `THREAD` keeps a sender.
    while let Ok(mut order) = work.recv() {
        // A caller that is gone leaves a child that nobody else would end.
        if let Err(unwanted) = order.answer.send(order.command.spawn())
            && let Ok(mut child) = unwanted.0
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
