// The loops of this process, by its instruction set.
#pragma once
#include "loops.h"
#include "pointwise.h"

// Those of the best instruction set that this CPU has, or of the one that tests force.
const OctrainLoops& octrain_loops();
const OctrainPointwiseLoops& octrain_pointwise_loops();
