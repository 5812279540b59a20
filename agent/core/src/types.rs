//! The words everything else is written in: addresses, names, ARNs, secrets and the clock.

mod clock;
mod joined;
mod names;
mod pod_ip;
mod role_arn;
mod secret;
mod utc;

pub use clock::Clock;
pub(crate) use joined::with_joined;
pub use names::{ExternalId, NameError, PodUid, SessionName};
pub use pod_ip::PodIp;
pub use role_arn::{RoleArn, RoleArnBase, RoleArnError};
pub use secret::Secret;
pub use utc::Utc;
pub(crate) use utc::write_digits;
