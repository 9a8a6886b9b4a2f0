//! Docker Engine.
