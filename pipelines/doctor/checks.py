"""What the doctor looks at, in the order in which it is repaired: what others read comes first."""

from pipelines.doctor import (
    flow_runs,
    folders,
    leftovers,
    lock_file,
    objects,
    outs,
    packages,
    remote,
    repository,
    resources,
)
from pipelines.doctor.finding import Check

CHECKS: list[Check] = [
    repository.no_git, repository.no_commits, repository.shallow_clone, repository.carriage_returns,
    leftovers.stale_rwlock,
    objects.corrupt_objects, objects.corrupt_runs,
    lock_file.broken_lock, lock_file.contradicted_lock,
    outs.changed_outs, outs.contradicted_manifests,
    leftovers.dead_stages, flow_runs.dead_flow_runs, leftovers.temporary_files, leftovers.abandoned_states,
    folders.site_cache, folders.open_folders,
    packages.wrong_versions, packages.missing_extras,
    resources.memory, resources.disk,
    remote.unreachable_remotes, repository.dirty_lock,
]  # fmt: skip
