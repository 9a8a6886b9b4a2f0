//! The user of commands where neither the spec nor the image names one: not root, who
//! is an explicit `user: root`.

use minicbor::bytes::ByteVec;

/// Its number and its group's.
pub(crate) const DEFAULT_USER: &str = "1000:1000";
/// What is made for it and its own: the directory of commands, and its home where the
/// image has no account for it, which stands last.
pub(crate) const PLACES: [&str; 2] = ["/workspace", "/home/user"];

/// The places of the default user, where commands run as that.
pub(crate) fn places_of(user: &str) -> Option<Vec<ByteVec>> {
    let bytes = |place: &str| ByteVec::from(place.as_bytes().to_vec());
    (user == DEFAULT_USER).then(|| PLACES.map(bytes).into())
}
