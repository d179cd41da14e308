// Subgroups of LANES lanes, as the adapter has them.

struct Invocation {
    @builtin(local_invocation_index) tid: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
}

fn place_of(invocation: Invocation) -> Place {
    return Place(invocation.tid, invocation.lane, LANES, invocation.subgroup);
}

// The sum over the lanes of a subgroup, known to each.
fn sum_of_subgroup(at: Place, x: f32) -> f32 {
    return subgroupAdd(x);
}
