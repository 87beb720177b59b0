"""What decides: planners, model-predictive control, the control loop, safety."""
