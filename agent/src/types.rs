//! The words everything else is written in: addresses, names, ARNs, secrets and the clock.

mod clock;
mod names;
mod pod_ip;
mod role_arn;
mod secret;

pub use clock::Clock;
pub use names::{ExternalId, NameError, PodUid, SessionName};
pub use pod_ip::PodIp;
pub use role_arn::{RoleArn, RoleArnBase, RoleArnError};
pub use secret::Secret;
