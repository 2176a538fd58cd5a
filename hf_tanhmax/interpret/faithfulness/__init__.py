"""How far attributions can be trusted: metrics over perturbed inputs."""
