"""Floor 1: cameras, poses, rays, scene scale, pose embedding, trajectories."""
