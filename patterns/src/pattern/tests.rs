//! Each room by itself, against the words of its RFC.
