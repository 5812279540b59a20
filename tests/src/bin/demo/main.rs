//! The main job, shown to a newcomer: a cluster in network namespaces, the real agent, real rules, a real AWS client.

mod story;
mod tell;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rolegate_tests::moto::Moto;
use rolegate_tests::world::World;

use tell::Teller;

fn main() -> ExitCode {
    let teller = Teller::new();
    match show(&teller) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            teller.bad("not everything went as it should: see the lines marked above");
            ExitCode::FAILURE
        }
        Err(error) => {
            teller.bad(&format!("the demo could not go on: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// True when everything was as promised.
fn show(teller: &Teller) -> Result<bool> {
    teller.title("rolegate: each pod gets credentials of its own role, and nothing of the node's");
    if let Some(why) = World::missing().or_else(Moto::missing) {
        anyhow::bail!("this machine cannot show it: {why}");
    }
    teller.progress("setting up a node with its pods, the Kubernetes API, STS and the metadata service");
    let world = World::start().context("set up the cluster")?;
    teller.progress("starting S3 and IAM (moto)");
    let moto = Arc::new(Moto::start(world.topology.world()).context("start moto")?);
    moto.create_bucket("bucket-one")?;
    moto.create_role("MyPodRole")?;
    moto.create_role("OtherRole")?;
    world.issue_by(&moto);
    let story = story::Story::new(teller, &world, &moto)?;
    story.tell()
}
