//! The coordinator client: register, heartbeat, plan, abort.
