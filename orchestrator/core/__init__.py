"""The pure heart of a run: events, state, transitions, controller, plan; and its journal."""
