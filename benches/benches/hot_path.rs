//! Every step that a request takes in memory, one benchmark each, in the order in which they are taken:
//! route, token, look-up of the address, decision, answer; and what happens beside it: parsing a role when
//! an annotation arrives, publishing a snapshot.
//!
//! A new step gets a function below and its line in [`criterion_group`].
#![expect(clippy::unwrap_used, reason = "constants")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use rolegate::types::{PodIp, RoleArn, RoleArnBase};

fn pod_ip(c: &mut Criterion) {
    let mapped: IpAddr = "::ffff:100.96.1.7".parse().unwrap();
    c.bench_function("pod_ip/v4_mapped", |b| b.iter(|| PodIp::new(black_box(mapped))));
}

fn role_arn(c: &mut Criterion) {
    let base = RoleArnBase::of_account("aws", "123456789012").unwrap();
    let mut group = c.benchmark_group("role_arn");
    group.bench_function("name", |b| b.iter(|| RoleArn::resolve(black_box("MyPodRole"), Some(&base))));
    let arn = "arn:aws:iam::123456789012:role/team-a/MyPodRole";
    group.bench_function("arn", |b| b.iter(|| RoleArn::resolve(black_box(arn), None)));
    let hostile = "a".repeat(65_536);
    group.bench_function("hostile", |b| b.iter(|| RoleArn::resolve(black_box(&hostile), Some(&base))));
    group.finish();
}

criterion_group!(hot_path, pod_ip, role_arn);
criterion_main!(hot_path);
