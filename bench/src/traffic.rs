// SPDX-License-Identifier: GPL-2.0

//! What whole connections over loopback feel of kstat.

use crate::figure::{Of, Part, Samples};
use kstat_tests::{
    guest::{daemon::Daemon, exclusive::KernelLock, link, module::Kstat, netns::Netns},
    tool, wait,
};
use serde_json::Value;
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// How long a round lasts.
const ROUND: Duration = Duration::from_secs(1);

/// One stream of iperf3's, and one short connection after the other, without kstat and with it.
pub fn measure(rounds: usize) -> Part {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let net = Netns::new();
    net.run(|| link::set_up("lo"));
    let _server = Daemon::run(&net, "iperf3", &["-s"]);
    wait::until("iperf3 listened", || {
        net.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 5201)).is_ok())
    });

    // Streams without kstat, and with it; connections without, and with.
    let mut samples = [const { Vec::new() }; 4];
    for round in 0..rounds {
        eprintln!("bench: iperf3: round {} of {rounds}", round + 1);
        for counting in [round % 2, 1 - round % 2] {
            if counting == 1 {
                kstat.start();
            }
            samples[counting].push(net.run(stream));
            samples[2 + counting].push(net.run(connections));
            kstat.stop();
        }
    }

    let of = [
        ("none", "Gbit/s"),
        ("kstat", "Gbit/s"),
        ("none", "connections/s"),
        ("kstat", "connections/s"),
    ];
    Part {
        samples: of
            .into_iter()
            .zip(samples)
            .map(|((subject, unit), samples)| Samples {
                of: Of {
                    subject: subject.to_owned(),
                    place: "iperf3".to_owned(),
                    unit: unit.to_owned(),
                    threads: 1,
                    packet: "ipv4-tcp".to_owned(),
                },
                rounds,
                samples,
            })
            .collect(),
        ..Part::default()
    }
}

/// How many gigabits a second iperf3 receives.
#[track_caller]
fn stream() -> f64 {
    let seconds = ROUND.as_secs().to_string();
    let answer = tool::run("iperf3", &["-c", "127.0.0.1", "-t", &seconds, "-J"]);
    let answer: Value = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("iperf3 -J: {error}: {answer}"));

    answer["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap_or_else(|| panic!("iperf3 -J: {answer}"))
        / 1e9
}

/// How many connections a second can be made, and closed.
#[track_caller]
fn connections() -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket that listens");
    let address = listener.local_addr().expect("its address");
    let start = Instant::now();

    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let mut number = 0;

            while start.elapsed() < ROUND {
                listener.accept().expect("a connection");
                number += 1;
            }
            number
        });
        while !accepting.is_finished() {
            let _ = TcpStream::connect(address);
        }
        let number: u64 = accepting.join().expect("it did not fail");
        number as f64 / start.elapsed().as_secs_f64()
    })
}
