//! What sentence-transformers puts behind a model: `modules.json` names folders, one for each step.

use super::ConvertError;
use super::files::{json, malformed, text};
use serde_json::Value;
use std::path::Path;

/// Folders of the steps of a type, such as `Pooling`, in their order.
///
/// # Errors
/// The file is malformed, or a step is outside of this folder.
pub(super) fn of_type(folder: &Path, ty: &str) -> Result<Vec<String>, ConvertError> {
    let path = folder.join("modules.json");
    let Some(text) = text(&path)? else { return Ok(Vec::new()) };
    let modules: Value =
        serde_json::from_str(&text).map_err(|error| malformed(&path, error.to_string()))?;
    let is_wanted = |module: &&Value| {
        module.get("type").and_then(Value::as_str).is_some_and(|own| own.ends_with(ty))
    };
    let mut all = Vec::new();
    for module in modules.as_array().into_iter().flatten().filter(is_wanted) {
        let Some(name) = module.get("path").and_then(Value::as_str) else { continue };
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(malformed(&path, format!("`{name}` is no folder beside it")));
        }
        all.push(name.to_owned());
    }
    Ok(all)
}

/// Folders of steps that multiply by a matrix.
///
/// # Errors
/// Those of [`of_type`]; a step does more than that.
pub(super) fn products(folder: &Path) -> Result<Vec<String>, ConvertError> {
    let all = of_type(folder, "Dense")?;
    for name in &all {
        let path = folder.join(name).join("config.json");
        let Some(config) = json(&path)? else { continue };
        let act = config.get("activation_function").and_then(Value::as_str);
        if let Some(act) = act.filter(|act| !act.ends_with("Identity")) {
            return Err(malformed(&path, format!("activation `{act}`, which is not supported")));
        }
    }
    Ok(all)
}
