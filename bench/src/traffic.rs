// SPDX-License-Identifier: GPL-2.0

//! Throughput and connection rate over loopback, without kstat and with it.

use crate::measurement::{Measurements, Quantity, Samples};
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

/// How long each measurement lasts.
const ROUND: Duration = Duration::from_secs(1);

/// Measures one stream of iperf3, and short connections one after the other, without kstat and with
/// it.
pub fn measure(rounds: usize) -> Measurements {
    let lock = KernelLock::take();
    let kstat = Kstat::load(&lock, "");
    let net = Netns::new();
    net.run(|| link::set_up("lo"));
    let _server = Daemon::run(&net, "iperf3", &["-s"]);
    wait::until("iperf3 listened", || {
        net.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 5201)).is_ok())
    });

    // Streams without kstat, streams with kstat, connections without, connections with.
    let mut samples = [const { Vec::new() }; 4];
    for round in 0..rounds {
        eprintln!("bench: iperf3: round {} of {rounds}", round + 1);
        for counting in [round % 2, 1 - round % 2] {
            if counting == 1 {
                kstat.start();
            }
            samples[counting].push(net.run(iperf3_gigabits_per_second));
            samples[2 + counting].push(net.run(connections_per_second));
            kstat.stop();
        }
    }

    let quantities = [
        ("none", "Gbit/s"),
        ("kstat", "Gbit/s"),
        ("none", "connections/s"),
        ("kstat", "connections/s"),
    ];
    Measurements {
        samples: quantities
            .into_iter()
            .zip(samples)
            .map(|((subject, unit), samples)| Samples {
                quantity: Quantity {
                    subject: subject.to_owned(),
                    environment: "iperf3".to_owned(),
                    unit: unit.to_owned(),
                    threads: 1,
                    packet: "ipv4-tcp".to_owned(),
                },
                rounds,
                samples,
            })
            .collect(),
        ..Measurements::default()
    }
}

/// Returns the throughput of one stream, as iperf3's server receives it.
#[track_caller]
fn iperf3_gigabits_per_second() -> f64 {
    let seconds = ROUND.as_secs().to_string();
    let answer = tool::run("iperf3", &["-c", "127.0.0.1", "-t", &seconds, "-J"]);
    let answer: Value = serde_json::from_str(&answer)
        .unwrap_or_else(|error| panic!("iperf3 -J: {error}: {answer}"));

    answer["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .unwrap_or_else(|| panic!("iperf3 -J: {answer}"))
        / 1e9
}

/// Returns how many connections a second one client makes and closes, one after the other.
#[track_caller]
fn connections_per_second() -> f64 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("making a listening socket");
    let address = listener.local_addr().expect("the address of the socket");
    let start = Instant::now();

    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let mut count = 0;

            while start.elapsed() < ROUND {
                listener.accept().expect("accepting a connection");
                count += 1;
            }
            count
        });
        while !accepting.is_finished() {
            let _ = TcpStream::connect(address);
        }
        let count: u64 = accepting.join().expect("the accepting thread failed");
        count as f64 / start.elapsed().as_secs_f64()
    })
}
