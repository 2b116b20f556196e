//! The machine itself: its memory, its TLBs and what they are told to forget.
