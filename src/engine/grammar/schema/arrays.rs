//! Arrays as older drafts write them: `items` with a list is `prefixItems`, and `additionalItems` what `items` is now.

use serde_json::{Map, Value};

/// Writes tuples in the way of draft 2020-12. The engine would pass over `prefixItems` beside either.
pub(super) fn rewrite(keys: &mut Map<String, Value>) -> Result<(), (&'static str, &'static str)> {
    // Without a list it has no meaning in any draft.
    let rest = keys.shift_remove("additionalItems");
    if !keys.get("items").is_some_and(Value::is_array) {
        return Ok(());
    }
    if keys.contains_key("prefixItems") {
        return Err(("items", "a list of schemas beside `prefixItems`"));
    }
    if let Some(list) = keys.shift_remove("items") {
        keys.insert("prefixItems".into(), list);
    }
    if let Some(rest) = rest {
        keys.insert("items".into(), rest);
    }
    Ok(())
}
