//! Bounds on everything that the network can send. Events pass through here once, before the job sees them; what
//! comes out has bounded names without control characters, bounded lists and bounded numbers.

use crate::config::MAX_WORKERS;
use crate::job::Event;
use crate::refusal::Refusal;
use crate::store::{MAX_KEY, MAX_VALUE};
use crate::text::{hostile, line};
use octrain_proto::v1::{ExitedRequest, GiveUpRequest, Header, JobSpec, RegisterRequest, WorkerFacts};

/// Longest name (host, job, nonce, member, model, device), in bytes.
pub const MAX_NAME: usize = 256;
/// Longest message of a worker that is kept, in bytes; longer ones are shortened.
pub const MAX_MESSAGE: usize = 2048;
/// Longest configuration, in bytes.
pub const MAX_CONFIG: usize = 64 << 10;
/// CUDA devices of one worker.
pub const MAX_DEVICES: usize = 64;
/// Keys of one question.
pub const MAX_KEYS: usize = 16_384;
/// Largest request, in bytes: a value of the store, and what goes with it.
pub const MAX_REQUEST: usize = MAX_VALUE + (128 << 10);

/// The event within its bounds; refused where it cannot be brought there without changing what it means.
pub fn admit(event: Event) -> Result<Event, Refusal> {
    match &event {
        Event::Register(request) => registration(request)?,
        Event::GiveUp(request) => {
            name("the job's name", &request.job_id)?;
            name("the host's name", &request.host)?;
            number("local index", request.local_index.unwrap_or_default())?;
        }
        Event::Exited(request) => {
            name("the job's name", &request.job_id)?;
            name("the host's name", &request.host)?;
            number("local index", request.local_index)?;
            secret(&request.token)?;
        }
        Event::GetPlan { header: h, .. }
        | Event::Heartbeat(h, _)
        | Event::Attach { header: h, .. }
        | Event::Watch { header: h }
        | Event::ReportStep { header: h, .. }
        | Event::ReportFailure { header: h, .. }
        | Event::Leave { header: h, .. } => header(h)?,
        Event::StoreSet { header: h, key: k, .. }
        | Event::StoreGet { header: h, key: k, .. }
        | Event::StoreAdd { header: h, key: k, .. }
        | Event::StoreDelete { header: h, key: k } => {
            header(h)?;
            key(k)?;
        }
        Event::StoreCheck { header: h, keys } => {
            header(h)?;
            count("keys", keys.len(), MAX_KEYS)?;
            keys.iter().try_for_each(|k| key(k))?;
        }
        // Of the coordinator's own making.
        Event::Disconnected { .. }
        | Event::Status { .. }
        | Event::Resize { .. }
        | Event::Tick
        | Event::HeldUp { .. }
        | Event::Shutdown { .. } => {}
    }
    Ok(match event {
        Event::ReportFailure { header, message, kind } => {
            Event::ReportFailure { header, message: line(&message, MAX_MESSAGE), kind }
        }
        Event::Attach { header, standing, message, wait } => {
            Event::Attach { header, standing, message: line(&message, MAX_MESSAGE), wait }
        }
        Event::Exited(request) => {
            let status = line(&request.status, MAX_MESSAGE);
            Event::Exited(Box::new(ExitedRequest { status, ..*request }))
        }
        Event::GiveUp(request) => {
            let message = line(&request.message, MAX_MESSAGE);
            Event::GiveUp(Box::new(GiveUpRequest { message, ..*request }))
        }
        within => within,
    })
}

fn registration(r: &RegisterRequest) -> Result<(), Refusal> {
    name("the job's name", &r.job_id)?;
    name("the nonce", &r.nonce)?;
    // Never shown, not even in part.
    secret(&r.token)?;
    if let Some(WorkerFacts { host, local_index, local_world, capabilities, .. }) = &r.worker {
        name("the host's name", host)?;
        number("local index", *local_index)?;
        number("number of workers of its host", *local_world)?;
        let devices = capabilities.as_ref().map_or(&[][..], |c| &c.cuda_devices);
        count("CUDA devices", devices.len(), MAX_DEVICES)?;
        devices.iter().try_for_each(|d| name("the name of a CUDA device", &d.name))?;
    }
    if let Some(JobSpec { config_json, config_sha256, model, .. }) = &r.job {
        bounded("the configuration", config_json, MAX_CONFIG)?;
        name("the configuration's hash", config_sha256)?;
        model.iter().try_for_each(|m| name("the model's name", &m.name))?;
    }
    Ok(())
}

fn number(what: &str, number: u32) -> Result<(), Refusal> {
    if number <= MAX_WORKERS {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("the worker's {what} is {number}; at most {MAX_WORKERS} is possible")))
}

fn header(header: &Header) -> Result<(), Refusal> {
    name("the job's name", &header.job_id)?;
    name("the worker's identity", &header.member)
}

fn name(what: &str, text: &str) -> Result<(), Refusal> {
    bounded(what, text, MAX_NAME)
}

fn secret(text: &str) -> Result<(), Refusal> {
    match text.len() > MAX_NAME {
        true => Err(Refusal::Invalid(format!("the worker's token has more than {MAX_NAME} bytes"))),
        false => Ok(()),
    }
}

/// The store says itself when a key is too long.
fn key(text: &str) -> Result<(), Refusal> {
    bounded("the store's key", text, MAX_KEY.max(text.len()))
}

fn bounded(what: &str, text: &str, max: usize) -> Result<(), Refusal> {
    let shown = || line(text, 64);
    if text.len() > max {
        let text = format!("{what} has {} bytes, more than {max}: {}", text.len(), shown());
        return Err(Refusal::Invalid(text));
    }
    if text.chars().any(hostile) {
        return Err(Refusal::Invalid(format!("{what} has control characters: {}", shown())));
    }
    Ok(())
}

fn count(what: &str, count: usize, max: usize) -> Result<(), Refusal> {
    match count > max {
        true => Err(Refusal::Invalid(format!("{count} {what} in one request; at most {max} are allowed"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Beat;
    use octrain_proto::v1::FailureKind;

    fn heartbeat(member: &str) -> Event {
        let header = Header { job_id: "octrain".into(), generation: 1, member: member.into() };
        Event::Heartbeat(header, Beat { step: 1, connected: true, ..Beat::default() })
    }

    #[test]
    fn names_are_refused_and_the_refusal_itself_is_harmless() {
        assert!(admit(heartbeat("0-1")).is_ok());
        for member in ["x".repeat(MAX_NAME + 1), "a\nINFO b".into(), "a\u{202e}b".into()] {
            let text = admit(heartbeat(&member)).unwrap_err().to_string();
            assert!(!text.chars().any(hostile) && text.len() < 200, "{text}");
        }
    }

    #[test]
    fn messages_are_kept_on_one_bounded_line() {
        let Event::Heartbeat(header, _) = heartbeat("m") else { unreachable!() };
        let message = format!("first\nsecond {}", "x".repeat(1 << 20));
        let event = Event::ReportFailure { header, message, kind: FailureKind::Own };
        let Ok(Event::ReportFailure { message, .. }) = admit(event) else { panic!() };
        assert!(message.starts_with("first\\nsecond x") && message.len() <= MAX_MESSAGE, "{message}");
    }
}
