"""The freeze engine: phases, the controller, and the proof."""
