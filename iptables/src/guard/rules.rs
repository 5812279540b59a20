//! Guard 1: policy rules. What is forwarded to the metadata addresses is prohibited; the host's own traffic goes past.
//!
//! ```text
//! P+4:  nop                            where the host's own goes on
//! P:    iif lo to IMDS goto P+4        what the host sends comes in by `lo`
//! P+2:  to IMDS prohibit               everything else is answered with an error
//! ```
//!
//! P+1 is the place of capture `route`.

use crate::family::Family;
use crate::links::LinkError;
use crate::rules::{self, Action, Rule, families};

/// In the order in which they are made: at no moment is the host's own traffic prohibited.
fn desired(first: u32, family: Family) -> [Rule; 3] {
    let (to, end) = (Some(family.imds()), first + 4);
    let rule = |preference, to, from_host, action| Rule { preference, to, from_host, action };
    [
        rule(end, None, false, Action::Nop),
        rule(first, to, true, Action::Goto(end)),
        rule(first + 2, to, false, Action::Prohibit),
    ]
}

/// Each is there, once, in every family.
pub(super) async fn are_right(first: u32) -> Result<bool, LinkError> {
    for family in families() {
        if !rules::are_there(&desired(first, family), family).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Adds what is missing, and takes away what is there twice.
pub(super) async fn write(first: u32) -> Result<(), LinkError> {
    for family in families() {
        rules::make(&desired(first, family), family).await?;
    }
    Ok(())
}

/// Takes ours away, the host's exemption last. `false`: there was none.
pub(super) async fn remove(first: u32) -> Result<bool, LinkError> {
    let mut any = false;
    for family in families() {
        any |= rules::remove(&desired(first, family), family).await?;
    }
    Ok(any)
}
