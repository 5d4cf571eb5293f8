// The loops of this process, by its instruction set.
#pragma once
#include "depthwise.h"
#include "loops.h"
#include "pointwise.h"

// Those of the best instruction set that this CPU has, or of the one that tests force.
const OctrainLoops& octrain_loops();
const OctrainDepthwiseLoops& octrain_depthwise_loops();
const OctrainPointwiseLoops& octrain_pointwise_loops();
