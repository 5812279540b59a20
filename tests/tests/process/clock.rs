//! The wall clock steps an hour, both ways, under the real process: `libfaketime` gives it another `CLOCK_REALTIME`
//! (the kernel has only one for all); what the agent measures time with goes on, as when NTP steps a clock.

use std::path::{Path, PathBuf};

use rolegate_tests::agent::{Agent, Line};
use rolegate_tests::world::{RunningPod, World};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::world;

/// Where Debian and its kin have it.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketime.so.1";
const HOUR: i64 = 3_600;
const LIST: &str = "/latest/meta-data/iam/security-credentials/";

fn library() -> Option<PathBuf> {
    let entries = std::fs::read_dir(LIBRARIES).ok()?;
    entries.flatten().map(|entry| entry.path().join(LIBRARY)).find(|path| path.is_file())
}

/// An agent whose clock is set from outside.
struct Scene {
    world: World,
    agent: Agent,
    pod: RunningPod,
    /// What the clock shows beyond the true time.
    offset: PathBuf,
}

// === impl Scene ===

impl Scene {
    fn set(test: &str) -> Option<Self> {
        let Some(library) = library() else {
            rolegate_tests::skip(test, "libfaketime is not installed (tests/tools/setup.sh)");
            return None;
        };
        let world = world(test)?;
        let pod = world.pod("default", "pod", |pod| pod.role("MyPodRole")).unwrap();
        let flags = world.usual_flags();
        let state = flags.iter().find_map(|flag| flag.strip_prefix("--state-dir=")).unwrap();
        let offset = Path::new(state).join("clock");
        std::fs::write(&offset, "+0").unwrap();
        let mut env = world.environment();
        for (name, value) in [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
        ] {
            env.insert(name.into(), value.into());
        }
        let agent = Agent::start(world.topology.node(), &flags, &env).unwrap();
        agent.ready().unwrap();
        Some(Self { world, agent, pod, offset })
    }

    /// Steps the clock, and sees that the agent's log is written with it.
    fn step(&self, seconds: i64) {
        let beside = self.offset.with_extension("new");
        std::fs::write(&beside, format!("{seconds:+}")).unwrap();
        std::fs::rename(&beside, &self.offset).unwrap();
        let said = self.agent.lines().len();
        self.pod.imds().imds_token(60).unwrap();
        self.agent
            .poll("the log has the new time", || {
                let lines = self.agent.lines();
                Ok(lines[said..]
                    .iter()
                    .any(|line| ahead(line).is_some_and(|ahead| (ahead - seconds).abs() < 120)))
            })
            .unwrap();
    }

    fn document(&self, pod: &RunningPod, role: &str) -> Option<Document> {
        let answer = pod.imds().get(&format!("{LIST}{role}")).unwrap();
        if answer.status != 200 {
            assert_eq!((answer.status, answer.text().as_str()), (500, ""), "{}", self.agent.log());
            return None;
        }
        let text = |name: &str| answer.json().unwrap()[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("Code"), "Success", "{}", answer.text());
        let key = text("AccessKeyId");
        let ends = OffsetDateTime::parse(&text("Expiration"), &Rfc3339).unwrap();
        let issued = self.world.sts.issued(&key).unwrap();
        assert_eq!(
            ends.unix_timestamp(),
            OffsetDateTime::from(issued.expiration).unix_timestamp(),
            "as STS said"
        );
        Some(Document { key, ends })
    }

    fn token_status(&self, token: &str) -> u16 {
        self.pod.imds().get_v2(LIST, token).unwrap().status
    }
}

/// What a pod was handed.
struct Document {
    key: String,
    ends: OffsetDateTime,
}

/// By how many seconds the clock that a line was written with is ahead.
fn ahead(line: &Line) -> Option<i64> {
    let at = OffsetDateTime::parse(&line.text_of("timestamp")?, &Rfc3339).ok()?;
    Some((at - OffsetDateTime::now_utc()).whole_seconds())
}

#[test]
fn clock_that_steps_an_hour_either_way_neither_drops_a_session_nor_lends_one_past_its_end() {
    let test = "clock_that_steps_an_hour_either_way_neither_drops_a_session_nor_lends_one_past_its_end";
    let Some(scene) = Scene::set(test) else { return };
    let agent = &scene.agent;
    let first = scene.document(&scene.pod, "MyPodRole").unwrap();
    let [short, long] = [300, 21_600].map(|ttl| scene.pod.imds().imds_token(ttl).unwrap());

    // Back: what is held is good, and what is got now has STS's own end, not two hours.
    scene.step(-HOUR);
    let calls = scene.world.sts.assume_role_calls();
    for _ in 0..3 {
        assert_eq!(scene.document(&scene.pod, "MyPodRole").unwrap().key, first.key);
    }
    assert_eq!(scene.world.sts.assume_role_calls(), calls, "nothing was thrown away");
    assert_eq!([&short, &long].map(|token| scene.token_status(token)), [200, 200]);
    let other = scene.world.pod("default", "other", |pod| pod.role("OtherRole")).unwrap();
    let mut late = None;
    agent
        .poll("a pod is served although the clock is wrong", || {
            // Its pod may not be known yet.
            late = other
                .imds()
                .get(LIST)?
                .status
                .eq(&200)
                .then(|| scene.document(&other, "OtherRole"))
                .flatten();
            Ok(late.is_some())
        })
        .unwrap();
    assert!(late.unwrap().ends <= OffsetDateTime::now_utc() + time::Duration::hours(1));

    // Forward: by this clock all of it has ended, and what STS gives has ended on arrival.
    scene.step(HOUR);
    for _ in 0..3 {
        assert!(scene.document(&scene.pod, "MyPodRole").is_none(), "{}", agent.log());
    }
    assert_eq!([&short, &long].map(|token| scene.token_status(token)), [401, 200]);
    assert_eq!(agent.admin("/livez").unwrap().status, 200);

    // The clock was right, and time has passed: STS says so, too.
    scene.world.sts.faults().clock_ahead(HOUR);
    let mut second = None;
    agent
        .poll("a session that has not ended", || {
            second = scene.document(&scene.pod, "MyPodRole");
            Ok(second.is_some())
        })
        .unwrap();
    let second = second.unwrap();
    assert_ne!(second.key, first.key);
    assert!(second.ends > OffsetDateTime::now_utc() + time::Duration::hours(1), "{}", second.ends);

    // And back again.
    scene.step(0);
    scene.world.sts.faults().clock_ahead(0);
    assert_eq!(scene.document(&scene.pod, "MyPodRole").unwrap().key, second.key);
    assert_eq!([&short, &long].map(|token| scene.token_status(token)), [200, 200]);
    assert_eq!(agent.admin("/readyz").unwrap().status, 200);
    agent.sigterm().unwrap();
    assert_eq!(agent.wait().unwrap().code(), Some(0), "{}", agent.log());
}
