//! vm-images
