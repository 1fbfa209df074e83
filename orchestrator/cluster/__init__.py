"""What talks to Ray for a run: its cluster, its worker actors, its submission as a job."""
