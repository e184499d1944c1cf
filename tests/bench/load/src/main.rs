//! Times file system operations through vhost-user daemons and natively, in turn within one run.
//!
//! ```text
//! vhost-load ops SHARE [--rounds N] [--seconds S] [--depth N] NAME=SOCKET,PID ...
//! vhost-load connect SOCKET COUNT PAUSE_MS
//! ```
//!
//! `ops` prepares SHARE, then goes through the operations; for each, every target and the same calls made natively
//! take turns, in another order each round. One JSON line per operation and target: median and 99th percentile of the time of an operation in
//! microseconds (depth 1), operations per second, and processor microseconds that PID (with its threads) spent per
//! operation, the best of all rounds; in the end a line per target with its peak memory. `connect` prints one line: microseconds from connect() to the reply to FUSE INIT,
//! by a monitor that has its memory ready.

#![allow(clippy::cast_precision_loss)] // figures for people

mod driver;
mod fuse;
mod monitor;
mod operations;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use operations::{Daemon, Native, Target, OPERATIONS};

const USAGE: &str = "usage: vhost-load ops SHARE [--rounds N] [--seconds S] [--depth N] NAME=SOCKET,PID ...\n       vhost-load connect SOCKET COUNT PAUSE_MS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["ops", share, rest @ ..] => Plan::parse(share, rest).and_then(|plan| plan.run()),
        ["connect", socket, count, pause] => connect(Path::new(socket), count, pause),
        _ => Err(io::Error::other(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vhost-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Connects *count* times, each after the one before has gone and *pause* milliseconds more.
fn connect(socket: &Path, count: &str, pause: &str) -> io::Result<()> {
    let count: usize = count.parse().map_err(io::Error::other)?;
    let pause = Duration::from_millis(pause.parse().map_err(io::Error::other)?);
    let mut micros = Vec::new();
    for _ in 0..count {
        let memory = driver::Driver::memory(1)?;
        let start = Instant::now();
        let mut driver = driver::Driver::connect(socket, memory)?;
        fuse::ask(&mut driver, &fuse::init())?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        drop(driver);
        std::thread::sleep(pause);
    }
    println!("{{\"connect_us\": {micros:.0?}}}");
    Ok(())
}

struct Peer {
    name: String,
    socket: PathBuf,
    pid: u32,
}

struct Plan {
    share: PathBuf,
    rounds: usize,
    round: Duration,
    depth: usize,
    peers: Vec<Peer>,
}

/// One target's figures for one operation.
#[derive(Default)]
struct Figures {
    micros: Vec<f64>,
    per_second: f64,
    cpu_micros: f64,
}

impl Plan {
    fn parse(share: &str, words: &[&str]) -> io::Result<Self> {
        let mut plan =
            Self { share: share.into(), rounds: 6, round: Duration::from_millis(300), depth: 1, peers: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().copied().ok_or_else(|| io::Error::other(USAGE));
            match *word {
                "--rounds" => plan.rounds = value()?.parse().map_err(io::Error::other)?,
                "--seconds" => plan.round = Duration::from_secs_f64(value()?.parse().map_err(io::Error::other)?),
                "--depth" => plan.depth = value()?.parse().map_err(io::Error::other)?,
                peer => plan.peers.push(Peer::parse(peer)?),
            }
        }
        Ok(plan)
    }

    fn run(&self) -> io::Result<()> {
        operations::prepare(&self.share)?;
        let mut native = Native::new(&self.share)?;
        let mut daemons = Vec::new();
        for peer in &self.peers {
            daemons.push(Daemon::new(&peer.socket, self.depth)?);
        }
        for (operation, deep) in OPERATIONS {
            if self.depth > 1 && !deep {
                continue;
            }
            let mut figures: Vec<Figures> = (0..=daemons.len()).map(|_| Figures::default()).collect();
            for round in 0..self.rounds {
                if self.depth == 1 {
                    measure(&mut native, operation, self.round, std::process::id(), &mut figures[daemons.len()])?;
                }
                let mut turns: Vec<_> = daemons.iter_mut().zip(self.peers.iter().zip(&mut figures)).collect();
                // Whoever comes first finds the processors in another state than who follows: each is first in its turn.
                let places = turns.len().max(1);
                turns.rotate_left(round % places);
                for (daemon, (peer, figures)) in turns {
                    if self.depth == 1 {
                        measure(daemon, operation, self.round, peer.pid, figures)?;
                    } else {
                        self.flood(daemon, operation, peer.pid, figures)?;
                    }
                }
            }
            let names = self.peers.iter().map(|peer| peer.name.as_str()).chain(["native"]);
            for (name, figures) in names.zip(&mut figures) {
                figures.print(operation, name, self.depth);
            }
        }
        for peer in &self.peers {
            println!("{{\"target\": \"{}\", \"peak_kib\": {}}}", peer.name, peak_kib(peer.pid));
        }
        Ok(())
    }

    fn flood(&self, daemon: &mut Daemon, operation: &str, pid: u32, figures: &mut Figures) -> io::Result<()> {
        let (start, before) = (Instant::now(), cpu_nanoseconds(pid));
        let answered = daemon.flood(operation, self.depth, || start.elapsed() < self.round)?;
        figures.add(answered, start.elapsed(), cpu_nanoseconds(pid) - before);
        Ok(())
    }
}

fn measure(
    target: &mut impl Target,
    operation: &str,
    round: Duration,
    pid: u32,
    figures: &mut Figures,
) -> io::Result<()> {
    let (start, before) = (Instant::now(), cpu_nanoseconds(pid));
    let mut count = 0;
    while start.elapsed() < round {
        let one = Instant::now();
        target.once(operation)?;
        figures.micros.push(one.elapsed().as_secs_f64() * 1e6);
        count += 1;
    }
    figures.add(count, start.elapsed(), cpu_nanoseconds(pid) - before);
    Ok(())
}

impl Peer {
    fn parse(text: &str) -> io::Result<Self> {
        let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.rsplit_once(',')?)));
        let (name, (socket, pid)) = parts.ok_or_else(|| io::Error::other(format!("{text}: not NAME=SOCKET,PID")))?;
        let pid = pid.parse().map_err(io::Error::other)?;
        Ok(Self { name: name.into(), socket: socket.into(), pid })
    }
}

impl Figures {
    fn add(&mut self, count: u64, elapsed: Duration, cpu: u64) {
        let count = count.max(1) as f64;
        self.per_second = self.per_second.max(count / elapsed.as_secs_f64());
        let cpu = cpu as f64 / 1e3 / count;
        self.cpu_micros = if self.cpu_micros == 0.0 { cpu } else { self.cpu_micros.min(cpu) };
    }

    fn print(&mut self, operation: &str, name: &str, depth: usize) {
        self.micros.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let value = self.micros.get((self.micros.len() as f64 * part) as usize);
            value.map_or_else(|| "null".to_owned(), |micros| format!("{micros:.2}"))
        };
        if self.per_second > 0.0 {
            println!(
                "{{\"operation\": \"{operation}\", \"target\": \"{name}\", \"depth\": {depth}, \"p50_us\": {}, \"p99_us\": {}, \"per_second\": {:.0}, \"cpu_us\": {:.2}}}",
                at(0.5), at(0.99), self.per_second, self.cpu_micros
            );
        }
    }
}

/// The most memory *pid* ever had resident (/proc/PID/status, VmHWM).
fn peak_kib(pid: u32) -> u64 {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return 0 };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Processor time of all threads of *pid*, in nanoseconds (/proc/PID/task/TID/schedstat, first field).
fn cpu_nanoseconds(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
