//! The worker's main thread: talks with the supervisor and with the monitor, and does no file I/O.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::config::Config;
use crate::confine::{self, Tightening};
use crate::fs::{Event, Server};
use crate::inherited::Inherited;
use crate::ipc::{self, Client, ControlSocket, Exit, Incoming, Kind, Message, Order, PROTOCOL_VERSION};
use crate::log;
use crate::notify::{self, Waker};
use crate::queue::inflight::InFlight;
use crate::queue::thread::Work;
use crate::queue::Queue;
use crate::session::socket::Socket;
use crate::session::{Device, End, Session};
use crate::settings::Settings;
use crate::stats::{Counter, Stats};

/// How long requests in flight may take when nobody has said so: the monitor has gone or has been refused.
const LAST_REQUESTS: Duration = Duration::from_secs(10);
/// Reports sent at once, and how often one more may follow: what a guest can cause must not occupy the supervisor.
const REPORT_BURST: u32 = 32;
const REPORT_INTERVAL: Duration = Duration::from_millis(100);
/// Reports kept for a supervisor that is slow to read; a guest that mounts in a circle makes no more.
const MAX_REPORTS: usize = 32;

/// Runs the worker to its end.
pub fn run(config: &Config, inherited: Inherited) -> Exit {
    match Control::start(config, inherited) {
        Ok((mut control, device)) => {
            let exit = control.serve(&device);
            // The queue threads end with the process: their seccomp programs lack what the end of a thread takes.
            std::mem::forget(device);
            exit
        }
        Err(error) => {
            log::error(format_args!("the worker cannot start: {error}"));
            Exit::Internal
        }
    }
}

/// A start-up step that failed.
struct StartError {
    step: &'static str,
    reason: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

fn step<T, E: fmt::Display>(step: &'static str, result: Result<T, E>) -> Result<T, StartError> {
    result.map_err(|error| StartError { step, reason: error.to_string() })
}

struct Control {
    socket: ControlSocket,
    wake: Arc<Waker>,
    stats: &'static Stats,
    /// What the file system has to tell; filled by queue threads.
    events: Events,
    unsent: VecDeque<Message>,
    settings: Settings,
    pace: Pace,
    /// The supervisor has closed its end: nothing is to be waited for there any more.
    alone: bool,
}

type Events = Arc<Mutex<VecDeque<Event>>>;

impl Control {
    fn start(config: &Config, inherited: Inherited) -> Result<(Self, Device), StartError> {
        let stats = step("statistics page", Stats::map(inherited.statistics.as_fd(), config.generation))?;
        let stats: &'static Stats = Box::leak(Box::new(stats));
        log::configure(config.log_level, stats);
        let wake = Arc::new(step("eventfd", Waker::new())?);
        let events = Events::default();
        let proc = step("procfs", inherited.proc.try_clone())?;
        let tell = teller(&events, &wake);
        let server =
            step("file system", Server::new(config, inherited.share, inherited.proc, inherited.arena, stats, tell))?;
        let server = Arc::new(server);
        let rings = usize::from(config.queues) + 1;
        let tightening = config.filters.as_ref().map(|filters| Tightening::new(filters.queue.clone(), rings));
        let inflight = InFlight::new(rings, stats);
        let work = Arc::new(Work { server: Arc::clone(&server), inflight, stats, tightening });
        let queues: Result<_, _> = (0..rings).map(|ring| Queue::spawn(ring, &wake, &work)).collect();
        let queues = step("queue thread", queues)?;
        let config_space = Device::config_space(&config.tag, config.queues);
        let socket = ControlSocket::new(inherited.control, config.generation);
        let (unsent, settings, pace) = (VecDeque::new(), Settings::default(), Pace::new());
        let control = Self { socket, wake, stats, events, unsent, settings, pace, alone: false };
        if let (Some(filters), Some(others)) = (&config.filters, &work.tightening) {
            step("seccomp program of the control thread", confine::tighten(&filters.control))?;
            others.wait();
        }
        Ok((control, Device { queues, server, proc, config_space }))
    }

    fn serve(&mut self, device: &Device) -> Exit {
        let mut ready = Message::new(Kind::Ready, self.socket.generation());
        ready.a = PROTOCOL_VERSION;
        self.unsent.push_back(ready);
        let departure = match self.wait_for_client(device) {
            Ok(client) => self.serve_client(device, client),
            Err(departure) => departure,
        };
        self.depart(device, &departure)
    }

    fn wait_for_client(&mut self, device: &Device) -> Result<OwnedFd, Departure> {
        loop {
            self.settle(device);
            self.report()?;
            self.wait(None, None);
            match self.order()? {
                Some(Order::Start { client, pid, uid }) => {
                    log::debug(format_args!("serving the monitor with pid {pid} of user {uid}"));
                    return Ok(client);
                }
                Some(Order::Stop { milliseconds }) => return Err(Departure::stopped(milliseconds)),
                Some(Order::Settings { document, serial }) => self.settings.push(serial, document),
                None => {}
            }
        }
    }

    fn serve_client(&mut self, device: &Device, client: OwnedFd) -> Departure {
        let Some(socket) = Socket::new(client) else {
            log::error(format_args!("START came with a descriptor that is no UNIX stream socket"));
            return Departure::new(Exit::Internal);
        };
        let mut session = Session::new(device, socket);
        loop {
            match self.serve_session(device, &mut session) {
                Ok(()) => {}
                Err(departure) => return departure,
            }
        }
    }

    /// One round: the monitor's messages, reports, a wait, the supervisor's order.
    fn serve_session(&mut self, device: &Device, session: &mut Session<'_>) -> Result<(), Departure> {
        let progress = session.advance();
        for client in session.take_news() {
            self.push(client, 0, 0);
        }
        progress.map_err(Departure::after)?;
        self.settle(device);
        self.report()?;
        self.wait(Some(session), session.deadline());
        match self.order()? {
            Some(Order::Stop { milliseconds }) => Err(Departure::stopped(milliseconds)),
            Some(Order::Settings { document, serial }) => {
                self.settings.push(serial, document);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self, device: &Device) {
        self.unsent.extend(self.settings.advance(device, self.socket.generation()));
    }

    /// Waits for the supervisor, the monitor, the other threads, or *until*.
    fn wait(&self, session: Option<&Session<'_>>, until: Option<Instant>) {
        let mut waiting = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let paced = self.pace.pause().filter(|_| !self.unsent.is_empty());
        if !self.alone {
            let may_send = !self.unsent.is_empty() && paced.is_none();
            let unsent = if may_send { PollFlags::OUT } else { PollFlags::empty() };
            waiting.push(PollFd::new(&self.socket, PollFlags::IN | unsent));
        }
        match session.map(|session| (session, session.interest())) {
            Some((session, (true, _))) => waiting.push(PollFd::new(session, PollFlags::IN)),
            Some((session, (_, true))) => waiting.push(PollFd::new(session, PollFlags::OUT)),
            // A monitor that hung up would end every poll at once while rings come to rest: it is left out.
            _ => {}
        }
        let left = until.into_iter().chain(paced).min().map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        notify::wait(&mut waiting, left.as_ref());
        self.wake.clear();
    }

    /// The supervisor's next order.
    fn order(&mut self) -> Result<Option<Order>, Departure> {
        if self.alone {
            return Ok(None);
        }
        match self.socket.receive() {
            Ok(Incoming::Order(order)) => Ok(Some(order)),
            Ok(Incoming::Nothing) => Ok(None),
            Ok(Incoming::Closed) => Err(self.left_alone()),
            Err(error) => {
                log::error(format_args!("{error}"));
                Err(Departure::new(Exit::Internal))
            }
        }
    }

    fn left_alone(&mut self) -> Departure {
        self.alone = true;
        Departure::new(Exit::SupervisorGone)
    }

    fn push(&mut self, client: Client, a: u64, b: u64) {
        let mounted = u64::from(client == Client::Mounted);
        if client != Client::DriverStarted {
            self.stats.set(Counter::Mounted, mounted);
        }
        let reports = || self.unsent.iter().enumerate().filter(|(_, message)| message.kind == Kind::Client);
        if reports().count() == MAX_REPORTS {
            let oldest = reports().next().map_or(0, |(index, _)| index);
            self.unsent.remove(oldest);
        }
        let mut message = Message::new(Kind::Client, self.socket.generation());
        (message.code, message.a, message.b) = (client as u32, a, b);
        self.unsent.push_back(message);
    }

    /// Sends the supervisor what it has room for.
    fn report(&mut self) -> Result<(), Departure> {
        let events = std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner));
        for event in events {
            match event {
                Event::Mounted { minor, flags } => self.push(Client::Mounted, u64::from(minor), flags),
                Event::Unmounted => self.push(Client::Unmounted, 0, 0),
            }
        }
        while let Some(message) = self.unsent.front().filter(|_| self.pace.pause().is_none()) {
            match self.socket.send(message) {
                Ok(true) => {
                    self.unsent.pop_front();
                    self.pace.spend();
                }
                Ok(false) => break,
                Err(_) => return Err(self.left_alone()),
            }
        }
        Ok(())
    }

    /// Announces the end, lets requests in flight finish, and says with what to exit.
    fn depart(&mut self, device: &Device, departure: &Departure) -> Exit {
        self.unsent.extend(self.settings.refuse(self.socket.generation()));
        // Reports that cannot be sent now concern a client that has gone.
        let _ = self.report();
        ipc::leave(departure.exit, departure.errno);
        for queue in &device.queues {
            queue.plan(None);
        }
        let mut until = Instant::now() + departure.drain;
        while Instant::now() < until && device.queues.iter().any(|queue| queue.settled().is_none()) {
            self.wait(None, Some(until));
            match self.order() {
                Ok(Some(Order::Stop { milliseconds })) => until = until.min(Instant::now() + drain(milliseconds)),
                Ok(Some(Order::Settings { document, serial })) => {
                    self.settings.push(serial, document);
                    self.unsent.extend(self.settings.refuse(self.socket.generation()));
                    let _ = self.report();
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        // All rings are at rest, unless time ran out: what was taken over before the end is settled too.
        self.settle(device);
        let _ = self.report();
        departure.exit
    }
}

/// A token bucket in the form of one time: reports push it ahead, and the clock follows.
struct Pace(Instant);

impl Pace {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn spend(&mut self) {
        self.0 = self.0.max(Instant::now()) + REPORT_INTERVAL;
    }

    /// Until when nothing more may be sent, if the burst is spent.
    fn pause(&self) -> Option<Instant> {
        self.0.checked_sub(REPORT_INTERVAL * REPORT_BURST).filter(|until| *until > Instant::now())
    }
}

/// How the worker is to end: what it reports, and how long requests in flight may take.
struct Departure {
    exit: Exit,
    errno: i32,
    drain: Duration,
}

impl Departure {
    fn new(exit: Exit) -> Self {
        Self { exit, errno: 0, drain: LAST_REQUESTS }
    }

    fn stopped(milliseconds: u64) -> Self {
        Self { drain: drain(milliseconds), ..Self::new(Exit::Stopped) }
    }

    fn after(end: End) -> Self {
        match end {
            End::ClientLeft => Self::new(Exit::ClientLeft),
            End::Refused(..) | End::Socket(_) => {
                log::error(format_args!("{end}"));
                Self { errno: libc::EPROTO, ..Self::new(Exit::Protocol) }
            }
            End::NotDrained(_) => {
                log::error(format_args!("{end}"));
                // They have had their time.
                Self { exit: Exit::NotDrained, errno: libc::ETIMEDOUT, drain: Duration::ZERO }
            }
        }
    }
}

/// A wait the supervisor asks for: an hour at most, so that sums of times stay in range.
fn drain(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds.min(3_600_000))
}

/// The file system's way to the control thread. Bounded: of a flood of mounts the last ones count.
fn teller(events: &Events, wake: &Arc<Waker>) -> Box<dyn Fn(Event) + Send + Sync> {
    let (events, wake) = (Arc::clone(events), Arc::clone(wake));
    Box::new(move |event| {
        let mut waiting = events.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == MAX_REPORTS {
            waiting.pop_front();
        }
        waiting.push_back(event);
        drop(waiting);
        wake.wake();
    })
}
