"""What a scope is compared with: explanations that take no gradient, through the same `attribute`.

Leaving tokens out (the effect a scope predicts, really brought about), attention carried back through the layers,
chance, and scores from outside. Input × Gradient, Integrated Gradients and SmoothGrad are scopes with another readout
or other points: `readout="dot"`, `points=StraightPath()`, `points=Noise()`.
"""
