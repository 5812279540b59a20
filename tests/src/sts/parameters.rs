//! What STS checks of a request's parameters, in its words.

use std::collections::HashMap;

use super::answer::Refusal;

/// What STS checks before anything else, and the duration.
pub(super) fn check_parameters(form: &HashMap<String, String>) -> Result<u64, Refusal> {
    let get = |name: &str| form.get(name).map_or("", String::as_str);
    let session = get("RoleSessionName");
    matches(session, r"^[\w+=,.@-]*$", "roleSessionName", r"[\w+=,.@-]*")?;
    length(session, 2, 64, "roleSessionName")?;
    length(get("RoleArn"), 20, 2048, "roleArn")?;
    if form.contains_key("ExternalId") {
        matches(get("ExternalId"), r"^[\w+=,.@:/-]*$", "externalId", r"[\w+=,.@:\/-]*")?;
        length(get("ExternalId"), 2, 1224, "externalId")?;
    }
    let Some(text) = form.get("DurationSeconds") else { return Ok(3_600) };
    let seconds = text.parse().unwrap_or(0);
    if seconds < 900 {
        return Err(invalid(text, "durationSeconds", "have value greater than or equal to 900"));
    }
    if seconds > 43_200 {
        return Err(invalid(text, "durationSeconds", "have value less than or equal to 43200"));
    }
    Ok(seconds)
}

fn matches(text: &str, pattern: &str, name: &str, shown: &str) -> Result<(), Refusal> {
    let fine = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
    if fine {
        Ok(())
    } else {
        Err(invalid(text, name, &format!("satisfy regular expression pattern: {shown}")))
    }
}

fn length(text: &str, min: usize, max: usize, name: &str) -> Result<(), Refusal> {
    if text.len() < min {
        return Err(invalid(text, name, &format!("have length greater than or equal to {min}")));
    }
    if text.len() > max {
        return Err(invalid(text, name, &format!("have length less than or equal to {max}")));
    }
    Ok(())
}

fn invalid(value: &str, name: &str, must: &str) -> Refusal {
    let message = format!(
        "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must {must}"
    );
    Refusal::new(400, "ValidationError", message)
}
