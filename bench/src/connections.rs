// SPDX-License-Identifier: GPL-2.0

//! The instructions of whole connections over loopback, without kstat and with it.
//!
//! The instructions of the kernel are included. The guest has one CPU. Where the CPU's counter is
//! read, one thread is both ends of a connection and never sleeps, as the counter also counts while
//! the CPU is idle.

use crate::{
    cost::Environment,
    device::{self, CHook, Device},
    instructions,
    measurement::{Measurements, Quantity, Samples},
    subject::Subject,
};
use kstat_tests::{
    guest::{exclusive::KernelLock, link, module::Kstat, netns::Netns, nginx::Nginx},
    tool,
};
use nix::sys::{
    resource::{getrusage, UsageWho},
    time::TimeValLike,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

/// The name of a workload in results, and the function that runs it and returns its instructions.
pub type Work = (&'static str, fn(&Netns) -> u64);

pub const WORKS: [Work; 3] = [
    (TRANSFER, |_| instructions::of(transfer)),
    (HTTP, http),
    (SHORT, |_| instructions::of(short_connections)),
];

pub const TRANSFER: &str = "a transfer of 16 MB";
pub const HTTP: &str = "1,000 short HTTP connections";
pub const SHORT: &str = "1,000 short connections of one thread with itself";

/// The hooks that are compared.
const SUBJECTS: [Subject; 3] = [Subject::None, Subject::Empty, Subject::Kstat];

/// Measures the connections without a hook, with one that does nothing, and with kstat.
pub fn measure(rounds: usize) -> Measurements {
    device::load_module();
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let mut samples = [const { [const { Vec::new() }; SUBJECTS.len()] }; WORKS.len()];
    // A worker of the kernel tears down namespaces, which would take instructions, so all are kept.
    let mut namespaces = vec![];

    for round in 0..=rounds {
        eprintln!("bench: connections: round {round} of {rounds}");
        // Each round begins with another subject.
        for i in (0..SUBJECTS.len()).map(|i| (i + round) % SUBJECTS.len()) {
            for ((_, work), samples) in WORKS.iter().zip(&mut samples) {
                // In a namespace of its own, no earlier connection holds a port.
                let net = Netns::new();
                net.run(|| link::set_up("lo"));
                let device = Device::open(&net);
                match SUBJECTS[i] {
                    Subject::Empty => device.set_hook(CHook::Empty),
                    Subject::Kstat => kstat.start(),
                    _ => {}
                }
                let count = net.run(|| work(&net));
                kstat.stop();
                // The first round fills caches.
                if round > 0 {
                    samples[i].push(count as f64);
                }
                namespaces.push(net);
            }
        }
    }

    let environment = Environment::Icount;
    Measurements {
        samples: WORKS
            .iter()
            .zip(samples)
            .flat_map(|((work, _), samples)| {
                SUBJECTS
                    .iter()
                    .zip(samples)
                    .map(move |(subject, samples)| Samples {
                        quantity: Quantity {
                            subject: subject.name().to_owned(),
                            environment: environment.name().to_owned(),
                            unit: environment.unit().to_owned(),
                            threads: 1,
                            packet: (*work).to_owned(),
                        },
                        rounds,
                        samples,
                    })
            })
            .collect(),
        ..Measurements::default()
    }
}

/// Makes a connection. Returns both ends.
#[track_caller]
fn connect(listener: &TcpListener) -> [TcpStream; 2] {
    let address = listener.local_addr().expect("the address of the socket");
    let client = TcpStream::connect(address).expect("connecting");
    let (server, _) = listener.accept().expect("accepting a connection");

    [client, server]
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("making a listening socket")
}

/// Sends 16 MB over one connection.
fn transfer() {
    const BYTES: usize = 16_000_000;

    let listener = listen();
    let [mut client, mut server] = connect(&listener);
    let mut buffer = vec![0; 128 * 1024];
    let (mut sent, mut received) = (0, 0);

    for end in [&client, &server] {
        end.set_nonblocking(true).expect("setting O_NONBLOCK");
    }
    while received < BYTES {
        let rest = buffer.len().min(BYTES - sent);

        sent += unless_full(client.write(&buffer[..rest]));
        received += unless_full(server.read(&mut buffer));
    }
}

/// Returns the number of bytes that a socket took or gave, which is 0 if it would have had to wait.
#[track_caller]
fn unless_full(result: std::io::Result<usize>) -> usize {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        result => result.expect("sending or receiving"),
    }
}

/// Makes 1,000 connections, each with a request and an answer.
fn short_connections() {
    let listener = listen();

    for _ in 0..1000 {
        let mut buffer = [0; 100];
        let [mut client, mut server] = connect(&listener);

        client.write_all(&buffer).expect("sending the request");
        server
            .read_exact(&mut buffer)
            .expect("receiving the request");
        server.write_all(&buffer).expect("sending the answer");
        client
            .read_exact(&mut buffer)
            .expect("receiving the answer");
    }
}

/// Fetches a file of 10,000 bytes from nginx 1,000 times, by one process of curl. Returns the
/// instructions of both, from their start to their end.
///
/// They may both wait at times, so these are not all instructions of that time, but what the kernel
/// charges to processes, in which an instruction is a nanosecond.
fn http(net: &Netns) -> u64 {
    let before = nanoseconds_of_ended_children();
    let server = Nginx::new(net, 10_000);

    tool::run(
        "curl",
        &[
            "-sSf",
            "-H",
            "Connection: close",
            "-o",
            "/dev/null",
            "http://127.0.0.1/file?[1-1000]",
        ],
    );
    drop(server);
    nanoseconds_of_ended_children() - before
}

/// Returns how long the CPU has worked for children of this process that have ended, and for their
/// children.
fn nanoseconds_of_ended_children() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage does not fail");
    let time = usage.user_time() + usage.system_time();

    1000 * time.num_microseconds() as u64
}
