//! One fetch: waits its turn, calls, tries again while somebody waits, and says how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{Instrument, debug, info_span, warn};

use super::cell::{Cell, Held};
use super::pace::{Cause, Permit};
use super::seat::Flight;
use super::{BrokerError, CALL_TIMEOUT, Shared};
use crate::credentials::source::{Session, SessionKey, SourceError};

/// What every role allows: STS's cap for chained roles, and the least MaxSessionDuration (IAM API reference).
const SURE_DURATION: Duration = Duration::from_secs(3_600);
/// Longest retry while somebody waits: what stalled before STS came back must not hide that it is back.
const RETRY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Every so many tries in a row one is given the whole [`CALL_TIMEOUT`]: STS may be just slow.
const PATIENT_EVERY: u32 = 4;
/// Pauses before retries are shortened by up to so many thousandths.
const RETRY_JITTER_PERMILLE: u32 = 250;
/// A refresh is made earlier by up to so many thousandths: 15 minutes become 14:06 to 15:00.
const REFRESH_JITTER_PERMILLE: u32 = 60;

/// The same where STS throttles: what many nodes got together at their start must not come of age together, or all of
/// it is asked for again within a minute. 15 minutes become 7:30 to 15:00.
const THROTTLED_JITTER_PERMILLE: u32 = 500;

/// Lands the flight, however its task ends: one that panics must not leave its key waiting for ever.
struct Landing<'a> {
    shared: &'a Shared,
    cell: &'a Cell,
    flight: &'a Flight,
}

impl Shared {
    /// Starts the flight's task.
    pub(super) fn launch(self: &Arc<Self>, cell: Arc<Cell>, flight: Arc<Flight>) {
        let span = info_span!("fetch", role = %cell.key.role, session = %cell.key.session_name);
        let shared = Arc::clone(self);
        self.tasks.spawn(
            async move {
                let landing = Landing { shared: &shared, cell: &cell, flight: &flight };
                shared.fly(&cell, &flight).await;
                drop(landing);
            }
            .instrument(span),
        );
    }

    async fn fly(&self, cell: &Cell, flight: &Flight) {
        while !flight.landed() {
            let permit = tokio::select! {
                biased;
                permit = self.turn(cell, flight) => permit,
                () = self.closing.cancelled() => return,
                () = deserted(cell, flight) => return,
            };
            let cause = flight.ticket.cause();
            let fetched = tokio::select! {
                biased;
                fetched = self.call(&cell.key, cause, patience(cell, flight)) => fetched,
                () = self.unwanted(flight) => return,
            };
            self.settle(cell, flight, &permit, cause, fetched);
        }
    }

    /// Resolves at shutdown if nobody waits.
    async fn unwanted(&self, flight: &Flight) {
        self.closing.cancelled().await;
        if flight.waited() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for what failed before, and then in the queue.
    async fn turn(&self, cell: &Cell, flight: &Flight) -> Permit {
        if let Some((_, earliest)) = cell.retry(flight.waited()) {
            self.pace.may_retry(earliest).await;
        }
        self.pace.permit(&flight.ticket).await
    }

    /// One call, or two: a duration that the role does not allow becomes an hour at once.
    async fn call(&self, key: &SessionKey, cause: Cause, patience: Duration) -> Result<Session, SourceError> {
        let mut key = key.clone();
        if self.short_roles.contains_key(&key.role) {
            key.duration = key.duration.min(SURE_DURATION);
        }
        let first = self.call_once(key.clone(), cause, patience).await;
        match first {
            Err(SourceError::Rejected { code, message })
                if key.duration > SURE_DURATION && is_about_duration(&code, &message) =>
            {
                warn!(asked = key.duration.as_secs(), %message, "sessions of this role last an hour at most");
                self.short_roles.insert(key.role.clone(), ());
                key.duration = SURE_DURATION;
                self.call_once(key, cause, patience).await
            }
            other => other,
        }
    }

    async fn call_once(
        &self,
        key: SessionKey,
        cause: Cause,
        patience: Duration,
    ) -> Result<Session, SourceError> {
        let started = Instant::now();
        let _in_flight = self.meter.call_begins();
        let fetch = || timeout(patience, self.source.fetch(key.clone()));
        let fetched = tokio::select! {
            biased;
            fetched = fetch() => fetched,
            // A connection that hung while STS was away may hang on: a new one is answered.
            () = self.pace.came_back(started) => fetch().await,
        };
        let fetched = fetched.unwrap_or_else(|_| {
            Err(SourceError::Unavailable { reason: format!("no answer within {patience:?}") })
        });
        self.meter.call_ended(cause, started.elapsed(), fetched.as_ref().err());
        fetched
    }

    fn settle(
        &self,
        cell: &Cell,
        flight: &Flight,
        permit: &Permit,
        cause: Cause,
        fetched: Result<Session, SourceError>,
    ) {
        let error = match fetched.and_then(|session| self.hold(cell, session)) {
            Ok(held) => {
                debug!(cause = cause.label(), "new session");
                self.pace.answered();
                cell.succeeded(flight, held);
                // A short session may come of age before the next look that is due.
                self.changed.notify_one();
                return;
            }
            Err(error) => error,
        };
        warn!(%error, cause = cause.label(), "no session from STS");
        match error {
            SourceError::Unauthorized { message } => {
                self.refuse(cell, flight, BrokerError::Unauthorized { message })
            }
            SourceError::Rejected { code, message } => {
                self.refuse(cell, flight, BrokerError::Rejected { code, message });
            }
            SourceError::Throttled => {
                self.pace.throttled(permit);
                self.fail(cell, flight, SourceError::Throttled);
            }
            SourceError::OwnCredentials { .. }
            | SourceError::Mismatched { .. }
            | SourceError::Unavailable { .. } => {
                self.pace.failed(cell.id);
                self.fail(cell, flight, error);
            }
        }
    }

    fn hold(&self, cell: &Cell, mut session: Session) -> Result<Held, SourceError> {
        session.document = (self.render)(&session);
        let expiration = session.expiration;
        let throttled = self.pace.throttled_within(self.config.refresh_age);
        let permille = if throttled { THROTTLED_JITTER_PERMILLE } else { REFRESH_JITTER_PERMILLE };
        let jitter = |age| {
            let issue = expiration.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
            self.pace.jitter(age, permille, (cell.id, issue.as_secs()))
        };
        Held::new(Arc::new(session), cell.key.duration, self.config.refresh_age, jitter).ok_or_else(|| {
            SourceError::Unavailable { reason: "the session has ended by this node's clock".into() }
        })
    }

    fn refuse(&self, cell: &Cell, flight: &Flight, error: BrokerError) {
        self.pace.answered();
        cell.refused(flight, error, self.config.error_ttl);
    }

    fn fail(&self, cell: &Cell, flight: &Flight, error: SourceError) {
        let issue = (cell.id, cell.retry(true).map_or(0, |(failures, _)| u64::from(failures)));
        let error = BrokerError::Unavailable { reason: error.to_string() };
        cell.failed(flight, error, self.closing.is_cancelled(), |pause| {
            self.pace.jitter(pause, RETRY_JITTER_PERMILLE, issue)
        });
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        if !self.flight.landed() {
            let reason = "the fetch ended early".into();
            self.cell.failed(self.flight, BrokerError::Unavailable { reason }, true, |pause| pause);
        }
        self.shared.changed.notify_one();
    }
}

/// Resolves when the flight has been given up, because its key is forgotten and nobody waits.
async fn deserted(cell: &Cell, flight: &Flight) {
    loop {
        flight.deserted().await;
        if cell.give_up(flight) {
            return;
        }
    }
}

/// How long a call may take.
fn patience(cell: &Cell, flight: &Flight) -> Duration {
    match cell.retry(true) {
        Some((failures, _)) if flight.waited() && !failures.is_multiple_of(PATIENT_EVERY) => RETRY_TIMEOUT,
        Some(_) | None => CALL_TIMEOUT,
    }
}

/// STS's two messages about durations, both under the code of any malformed parameter.
fn is_about_duration(code: &str, message: &str) -> bool {
    code == "ValidationError" && (message.contains("role chaining") || message.contains("MaxSessionDuration"))
}
