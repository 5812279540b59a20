//! One node: read, and patched, itself or its status.

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::objects::status;
use super::server::{Body, allowed, json_response, other};
use super::state::{Request, Resource, Shared, State};

/// The answer to a request for `rest`: `NAME` or `NAME/status`.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: &Request,
    rest: &str,
) -> Result<Response<Body>, Value> {
    let (name, resource) = match rest.split_once('/') {
        None => (rest, Resource::Nodes),
        Some((name, "status")) => (name, Resource::NodeStatus),
        Some(_) => return Err(status(404, "NotFound", "the server could not find the requested resource")),
    };
    let verb = match request.method.as_str() {
        "GET" => "get",
        "PATCH" => "patch",
        _ => return Err(status(405, "MethodNotAllowed", "the server does not allow this method")),
    };
    allowed(shared, verb, resource)?;
    let failing = shared.change(|state| {
        let collection = state.of_mut(resource);
        if verb == "get" { collection.failing_lists.next() } else { collection.failing_patches.next() }
    });
    if let Some(answer) = failing {
        return other(answer, &json!({}));
    }
    let delay = shared.state().of(resource).list_delay;
    tokio::time::sleep(delay).await;
    let node = shared.change(|state| {
        let known = state.of(Resource::Nodes).objects.get(name).map(|node| (**node).clone());
        let known = known.ok_or_else(|| status(404, "NotFound", &format!("nodes \"{name}\" not found")))?;
        if verb == "get" { Ok(known) } else { patch(state, request, name, resource, known) }
    })?;
    Ok(json_response(StatusCode::OK, &node))
}

fn patch(
    state: &mut State,
    request: &Request,
    name: &str,
    resource: Resource,
    mut known: Value,
) -> Result<Value, Value> {
    if let Some(taints) = state.taints_before_patch.take() {
        known["spec"]["taints"] = taints;
        state.apply_object(Resource::Nodes, name, known.clone());
    }
    let patch = request.body.as_ref().ok_or_else(|| status(400, "BadRequest", "the patch is not JSON"))?;
    let mut node = known.clone();
    match request.content_type.as_str() {
        "application/json-patch+json" => json_patch(&mut node, patch).map_err(|why| unprocessable(&why))?,
        "application/strategic-merge-patch+json" => merge(&mut node, patch),
        other => {
            return Err(status(415, "UnsupportedMediaType", &format!("the body has the type {other:?}")));
        }
    }
    // Each of the two keeps what the other is for.
    let kept = if resource == Resource::NodeStatus { "spec" } else { "status" };
    node[kept] = known[kept].clone();
    if node != known {
        state.apply_object(Resource::Nodes, name, node);
    }
    let node = state.of(Resource::Nodes).objects.get(name).map(|node| (**node).clone());
    node.ok_or_else(|| unprocessable("the node is gone"))
}

/// As the real one words it, whatever was wrong; it says why in its `details`.
fn unprocessable(why: &str) -> Value {
    let message = "the server rejected our request due to an error in our request";
    let mut refusal = status(422, "Invalid", message);
    refusal["details"] = json!({"causes": [{"message": why}]});
    refusal
}

/// RFC 6902, but `move` and `copy`.
fn json_patch(object: &mut Value, patch: &Value) -> Result<(), String> {
    for step in patch.as_array().ok_or("not a list of operations")? {
        let path = step["path"].as_str().ok_or("an operation without a path")?;
        let missing = || format!("there is no {path}");
        match step["op"].as_str() {
            Some("test") if object.pointer(path) == step.get("value") => {}
            Some("test") => return Err(format!("testing value {path} failed: test failed")),
            Some("replace") => *object.pointer_mut(path).ok_or_else(missing)? = step["value"].clone(),
            Some(op @ ("add" | "remove")) => {
                let (parent, key) = path.rsplit_once('/').ok_or_else(missing)?;
                let key = key.replace("~1", "/").replace("~0", "~");
                let parent = object.pointer_mut(parent).and_then(Value::as_object_mut).ok_or_else(missing)?;
                if op == "add" {
                    parent.insert(key, step["value"].clone());
                } else {
                    parent.remove(&key).ok_or_else(missing)?;
                }
            }
            op => return Err(format!("unknown operation {op:?}")),
        }
    }
    Ok(())
}

/// A strategic merge: objects key by key, conditions by their type, other lists whole.
fn merge(object: &mut Value, patch: &Value) {
    let (Some(target), Some(changes)) = (object.as_object_mut(), patch.as_object()) else {
        object.clone_from(patch);
        return;
    };
    for (key, change) in changes {
        match (target.get_mut(key), change) {
            (_, Value::Null) => drop(target.remove(key)),
            (Some(Value::Array(known)), Value::Array(changes)) if key == "conditions" => {
                for change in changes {
                    match known.iter_mut().find(|known| known["type"] == change["type"]) {
                        Some(known) => merge(known, change),
                        None => known.push(change.clone()),
                    }
                }
            }
            (Some(known), Value::Object(_)) => merge(known, change),
            _ => drop(target.insert(key.clone(), change.clone())),
        }
    }
}
