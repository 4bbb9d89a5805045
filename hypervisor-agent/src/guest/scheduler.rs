//! Classes of jobs, and whether jobs begin, as a guest is told of them in its seed and while it runs.

use holm_proto::v1::{GuestScheduler, JobClass};
use serde_json::{Value, json};

/// What a guest is told. holmd's word was checked when it came.
pub fn told(scheduler: &GuestScheduler) -> Value {
    let class = |class: &JobClass| {
        let mut told =
            json!({ "name": class.name, "priority": class.priority, "wall_minutes": class.wall_minutes });
        if let (Some(gpus), Some(told)) = (class.gpus, told.as_object_mut()) {
            told.insert("gpus".to_owned(), gpus.into());
        }
        told
    };
    let classes: Vec<Value> = scheduler.classes.iter().map(class).collect();
    json!({ "of": scheduler.of, "drain": scheduler.drain, "classes": classes })
}
