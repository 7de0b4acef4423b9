//! Random programs of many sockets in simulated worlds, drawn from a seed: all guarantees are checked, whatever happens
//! to the network.

mod churn;
mod closing;
mod content;
mod pipeline;
mod publish;
mod request;
mod sock;
mod stage;

use zring_engine::sim::{Faults, World, batch};

use self::{
    churn::Churn,
    pipeline::Pipeline,
    publish::Publish,
    request::Request,
    stage::{MS, S, Stage},
};

const REPLAY: &str = "cargo test -p zring --features sim --test sim_programs";
/// Once faults have stopped, everything that can be delivered is delivered within this time.
const PROGRESS_NS: u64 = 40 * S;

/// A group of sockets that belong together.
trait Scene {
    /// Kind and progress of the scene.
    fn name(&self) -> String;
    /// Whether every message was sent, and every message that must arrive has arrived.
    fn is_done(&self) -> bool;
    /// Makes a short blocking call.
    fn body(&self);
    /// Checks the guarantees when all is done.
    fn check(&self);
    /// Ends all receiving.
    fn stop(&mut self);
    /// Closes all sockets.
    fn end(self: Box<Self>);
}

fn draw(stage: &Stage) -> Vec<Box<dyn Scene>> {
    let scene = |kind| -> Box<dyn Scene> {
        match kind {
            0 => Box::new(Pipeline::start(stage)),
            1 => Box::new(Publish::start(stage)),
            2 => Box::new(Churn::start(stage)),
            _ => Box::new(Request::start(stage)),
        }
    };
    let count = if stage.below(3) == 0 { 2 } else { 1 };
    (0..count).map(|_| scene(stage.below(4))).collect()
}

/// The body makes one blocking call after another while the tasks run, until all scenes are done or the time is over.
fn play(stage: &Stage, scenes: &[Box<dyn Scene>], until_ns: u64) -> bool {
    let world = stage.world();
    let are_done = || scenes.iter().all(|scene| scene.is_done());
    while !are_done() && world.now_ns() < until_ns {
        match stage.below(3) {
            0 => drop(world.run_until_within(Some(stage.below(10 * MS)), are_done)),
            _ => scenes[stage.below(scenes.len() as u64) as usize].body(),
        }
    }
    are_done()
}

fn run(world: &World, is_lossless: bool) {
    let stage = Stage::new(world, is_lossless);
    let mut scenes = draw(&stage);
    if stage.below(3) == 0 {
        closing::close_unsent(&stage);
    }
    let faulty_until_ns = world.now_ns() + stage.below(200 * MS);
    play(&stage, &scenes, faulty_until_ns);
    world.heal();
    let is_done = play(&stage, &scenes, world.now_ns() + PROGRESS_NS);
    let undone = scenes.iter().filter(|scene| !scene.is_done()).map(|scene| scene.name());
    assert!(is_done, "not done in time: {:?}", undone.collect::<Vec<_>>());
    scenes.iter().for_each(|scene| scene.check());
    scenes.iter_mut().for_each(|scene| scene.stop());
    scenes.into_iter().for_each(Scene::end);
    stage.end();
}

#[test]
fn nothing_is_lost_where_no_connection_is() {
    let replay = format!("{REPLAY} nothing_is_lost");
    batch("lossless", &replay, 0..120, &Faults::lossless(), |world| run(world, true));
}

#[test]
fn what_is_lost_is_accounted_for() {
    let replay = format!("{REPLAY} what_is_lost");
    batch("everything", &replay, 0..120, &Faults::all(), |world| run(world, false));
}

#[test]
fn a_network_without_faults() {
    let replay = format!("{REPLAY} without_faults");
    batch("none", &replay, 0..60, &Faults::none(), |world| run(world, true));
}

#[test]
fn every_wait_ends_with_its_context() {
    let replay = format!("{REPLAY} every_wait");
    batch("ending", &replay, 0..100, &Faults::all(), closing::terminate);
}

#[test]
fn a_reply_that_was_left_answers_nothing_else() {
    let replay = format!("{REPLAY} that_was_left");
    batch("a reply left", &replay, 0..20, &Faults::none(), request::leave_a_reply);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let once = |seed| {
        World::run(seed, &Faults::all(), |world| {
            run(world, false);
            (world.digest(), world.steps(), world.now_ns())
        })
    };
    for seed in 0..12 {
        let elsewhere = std::thread::spawn(move || once(seed)).join().expect("it runs");
        assert_eq!(once(seed), elsewhere, "seed {seed}");
    }
}
