//! What an API server does to an agent on a bad day, in hours that pass at once: the double answers in process,
//! on the test's own clock.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]

#[path = "api_trouble/answers.rs"]
mod answers;
#[path = "api_trouble/outages.rs"]
mod outages;
#[path = "api_trouble/world.rs"]
mod world;
