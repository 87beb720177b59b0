"""Watching a run: the scene, the planner's thoughts and the curves, in rerun, from processes of their own."""
