//! Sockets of every family, connections to listening decoys, and System V shared memory.

use libc::{c_int, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_VSOCK, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM};

use super::{unix_address, Attempt};
use crate::facts::Facts;
use crate::kernel::{address, call, close, done, opened, permitted, text, word, Result, ABSENT};
use crate::CONTROL;

const SEQUENCED: c_int = libc::SOCK_SEQPACKET;

pub const ALL: &[Attempt] = &[
    Attempt::new("socket_inet", "make a TCP socket", |_| socket(AF_INET, SOCK_STREAM)),
    Attempt::new("socket_inet_datagram", "make a UDP socket", |_| socket(AF_INET, SOCK_DGRAM)),
    Attempt::new("socket_inet_raw", "make a raw IP socket", |_| {
        opened(libc::SYS_socket, &[word(AF_INET), word(SOCK_RAW), word(libc::IPPROTO_ICMP)])
    }),
    Attempt::new("socket_inet6", "make an IPv6 socket", |_| socket(AF_INET6, SOCK_STREAM)).varies(),
    Attempt::new("socket_unix", "make a UNIX socket", |_| socket(AF_UNIX, SOCK_STREAM)),
    Attempt::new("socket_unix_sequenced", "make a UNIX socket for packets", |_| socket(AF_UNIX, SEQUENCED)),
    Attempt::new("socket_netlink", "make a netlink socket", |_| socket(AF_NETLINK, SOCK_RAW)),
    Attempt::new("socket_packet", "make a packet socket", |_| socket(AF_PACKET, SOCK_RAW)).varies(),
    Attempt::new("socket_vsock", "make a socket to the hypervisor", |_| socket(AF_VSOCK, SOCK_STREAM)).varies(),
    Attempt::new("socket_other_families", "make a socket of any other family the kernel has", other_families).varies(),
    Attempt::new("socket_pair", "make a pair of sockets", |_| {
        let mut pair = [0i32; 2];
        done(libc::SYS_socketpair, &[word(AF_UNIX), word(SOCK_STREAM), 0, pair.as_mut_ptr() as usize])
    }),
    Attempt::new("connect_abstract", "connect to an abstract socket of the host", |facts| {
        connect_unix(&format!("\0{}", facts.text("abstract")))
    }),
    Attempt::new("connect_pathname", "connect to a socket file of the host", |facts| {
        connect_unix(facts.text("pathname"))
    }),
    Attempt::new("connect_tcp", "connect to a TCP port of the host", |facts| {
        let fd = call(libc::SYS_socket, &[word(AF_INET), word(SOCK_STREAM), 0])?;
        let target = internet(facts.number("port") as u16);
        let result = done(libc::SYS_connect, &[fd, address(&target), size_of_val(&target)]);
        close(fd as i32);
        result
    }),
    Attempt::new("send_udp", "send a datagram to the host", |facts| {
        let fd = call(libc::SYS_socket, &[word(AF_INET), word(SOCK_DGRAM), 0])?;
        let target = internet(facts.number("port") as u16);
        let result = done(libc::SYS_sendto, &[fd, text(c"probe"), 5, 0, address(&target), size_of_val(&target)]);
        close(fd as i32);
        result
    }),
    Attempt::new("bind_tcp", "wait for TCP connections", |_| {
        let fd = call(libc::SYS_socket, &[word(AF_INET), word(SOCK_STREAM), 0])?;
        let any = internet(0);
        let result = done(libc::SYS_bind, &[fd, address(&any), size_of_val(&any)]);
        close(fd as i32);
        result
    }),
    Attempt::new("bind_pathname", "make a socket file outside the share", |facts| {
        let fd = call(libc::SYS_socket, &[word(AF_UNIX), word(SOCK_STREAM), 0])?;
        let (target, length) = unix_address(&facts.outside("bound"));
        let result = done(libc::SYS_bind, &[fd, address(&target), length]);
        close(fd as i32);
        result
    }),
    // A connected socket for packets takes no address: EISCONN or ENOTCONN say that one was looked at.
    Attempt::new("send_to_address", "name an address on the control socket", |facts| {
        let (target, length) = unix_address(facts.text("pathname"));
        let arguments = [word(CONTROL), text(c"{}"), 2, 0, address(&target), length];
        permitted(libc::SYS_sendto, &arguments, &[libc::EISCONN, libc::ECONNREFUSED, libc::EOPNOTSUPP])
    }),
    Attempt::new("system_v_memory", "make System V shared memory", |_| {
        let made = call(libc::SYS_shmget, &[0, 4096, libc::IPC_CREAT as usize | 0o600])?;
        done(libc::SYS_shmctl, &[made, word(libc::IPC_RMID), 0])
    }),
    Attempt::new("system_v_memory_of_host", "find System V shared memory of the host", |facts| {
        done(libc::SYS_shmget, &[facts.number("segment"), 0, 0])
    }),
];

fn socket(family: c_int, kind: c_int) -> Result<()> {
    opened(libc::SYS_socket, &[word(family), word(kind), 0])
}

/// Only the families the kernel says it has: asking for another may load a module into it.
fn other_families(facts: &Facts) -> Result<()> {
    let mut answer = Err(ABSENT);
    for family in facts.text("families").split(',').filter_map(|number| number.parse::<c_int>().ok()) {
        for kind in [SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, SEQUENCED] {
            answer = socket(family, kind);
            if answer.is_ok() {
                return answer;
            }
        }
    }
    answer
}

fn connect_unix(name: &str) -> Result<()> {
    let fd = call(libc::SYS_socket, &[word(AF_UNIX), word(SOCK_STREAM), 0])?;
    let (target, length) = unix_address(name);
    let result = done(libc::SYS_connect, &[fd, address(&target), length]);
    close(fd as i32);
    result
}

/// *port* of the loopback interface.
fn internet(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}
