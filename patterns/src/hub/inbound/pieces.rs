//! Bytes that a connection has received and that are not decoded yet.

use std::collections::VecDeque;

use zring_engine::Chunk;

/// Received bytes that are not decoded yet.
#[derive(Debug)]
pub(crate) enum Piece {
    Chunk(Chunk),
    Copied(Vec<u8>),
}

/// Pieces in the order they came in.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// Kept apart from the others, since every message may be decoded from it.
    first: Option<Piece>,
    others: VecDeque<Piece>,
}

impl Pieces {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    #[inline(always)]
    pub(crate) fn front(&self) -> Option<&Piece> {
        self.first.as_ref()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn push_back(&mut self, piece: Piece) {
        match &self.first {
            None => self.first = Some(piece),
            Some(_) => self.others.push_back(piece),
        }
    }

    /// Puts a piece back in front, where the last one was taken.
    pub(crate) fn put_back(&mut self, piece: Piece) {
        if let Some(second) = self.first.replace(piece) {
            self.others.push_front(second);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Piece> {
        std::mem::replace(&mut self.first, self.others.pop_front())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.first.iter_mut().chain(&mut self.others)
    }
}
