"""How many experts each layer has over depth: the kinds of schedules, and a layer's place."""
